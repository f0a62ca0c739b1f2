"""The two small programs that draw the network on the viewer's graphics card.

Nodes are round points with a soft halo.  Sparks move by themselves: the x position of the object
that holds them is the scene's clock, run by a pythreejs animation in the browser, and each
spark's place follows from that clock (see ``playback.where``, the same rule in Python).
"""

from __future__ import annotations

from neuronexus_widgets.scene.playback import COLOURS
from neuronexus_widgets.theme import rgb

NODE_VERTEX = """
attribute vec4 look;
varying vec3 vColour;
varying float vDepth;
void main() {
  vec4 place = modelViewMatrix * vec4(position, 1.0);
  gl_Position = projectionMatrix * place;
  gl_PointSize = look.w * 520.0 / -place.z;
  vColour = look.rgb;
  vDepth = clamp((-place.z - 6.0) / 14.0, 0.0, 1.0);
}
"""

NODE_FRAGMENT = """
varying vec3 vColour;
varying float vDepth;
void main() {
  float r = length(gl_PointCoord - 0.5) * 2.0;
  if (r > 1.0) discard;
  float core = 1.0 - smoothstep(0.40, 0.46, r);
  float halo = pow(1.0 - r, 2.2) * 0.55;
  float light = mix(1.0, 0.5, vDepth);
  float off = distance(gl_PointCoord, vec2(0.44, 0.43)) * 2.0;
  float shine = 0.25 * (1.0 - smoothstep(0.0, 0.38, off));
  gl_FragColor = vec4(vColour * light + shine * core, max(core, halo) * mix(1.0, 0.7, vDepth));
}
"""

SPARK_VERTEX = """
attribute vec4 look;
varying vec3 vColour;
varying float vAlpha;
varying float vRing;
varying float vPart;
uniform vec3 colour0;
uniform vec3 colour1;
uniform vec3 colour2;
uniform vec3 colour3;
uniform vec3 colour4;
void main() {
  float now = length(modelMatrix[3].xyz);
  float part = clamp((now - look.x) / max(look.y, 1e-6), 0.0, 1.0);
  float alive = step(1e-6, look.y) * step(look.x, now) * (1.0 - step(look.x + look.y, now));
  float way = floor(look.z / 10.0 + 0.01);
  float tint = look.z - 10.0 * way;
  float eased = part * part * (3.0 - 2.0 * part);
  float along = way < 0.5 ? eased : (way < 1.5 ? 1.0 - eased : 1.0);
  mat4 model = modelMatrix;
  model[3] = vec4(0.0, 0.0, 0.0, 1.0);
  vec4 place = viewMatrix * model * vec4(position * along, 1.0);
  gl_Position = alive > 0.5 ? projectionMatrix * place : vec4(2.0, 2.0, 2.0, 1.0);
  vRing = way > 1.5 ? 1.0 : 0.0;
  vPart = part;
  float fade = smoothstep(0.0, 0.12, part) * (1.0 - smoothstep(0.88, 1.0, part));
  vAlpha = vRing > 0.5 ? 1.0 - part : fade;
  gl_PointSize = look.w * (vRing > 0.5 ? 300.0 + 1500.0 * part : 190.0) / -place.z;
  vColour = tint < 0.5 ? colour0 : tint < 1.5 ? colour1 : tint < 2.5 ? colour2
          : tint < 3.5 ? colour3 : colour4;
}
"""

SPARK_FRAGMENT = """
varying vec3 vColour;
varying float vAlpha;
varying float vRing;
varying float vPart;
void main() {
  float r = length(gl_PointCoord - 0.5) * 2.0;
  if (r > 1.0) discard;
  float dot_ = pow(1.0 - r, 1.6);
  float ring = 1.0 - smoothstep(0.03, 0.10, abs(r - 0.86));
  float glow = vRing > 0.5 ? ring * 0.8 + (1.0 - r) * 0.10 * (1.0 - vPart) : dot_;
  gl_FragColor = vec4(mix(vColour, vec3(1.0), vRing > 0.5 ? 0.0 : 0.35 * dot_), glow * vAlpha);
}
"""


def spark_uniforms() -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return the colours of sparks in the form that a shader material takes."""
    return {f"colour{index}": {"value": rgb(name)} for index, name in enumerate(COLOURS)}
