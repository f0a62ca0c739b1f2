"""The two small programs that draw the network on the viewer's graphics card.

Nodes and sparks are small squares that face the camera, sized in the scene's own units, so that
they look the same on every screen; nodes are discs with a soft halo.  Sparks move by themselves:
the x position of the object that holds them is the scene's clock, run by a pythreejs animation in
the browser, and each spark's place follows from that clock (see ``playback.where``, the same rule
in Python).
"""

from __future__ import annotations

from neuronexus_widgets.scene.playback import COLOURS
from neuronexus_widgets.theme import rgb

NODE_VERTEX = """
attribute vec2 corner;
attribute vec4 look;
varying vec2 vAt;
varying vec3 vColour;
varying float vDepth;
void main() {
  vec4 place = modelViewMatrix * vec4(position, 1.0);
  vDepth = clamp((-place.z - 6.0) / 13.0, 0.0, 1.0);
  place.xy += corner * look.w * 1.6;
  gl_Position = projectionMatrix * place;
  vAt = corner;
  vColour = look.rgb;
}
"""

NODE_FRAGMENT = """
varying vec2 vAt;
varying vec3 vColour;
varying float vDepth;
void main() {
  float r = length(vAt);
  if (r > 1.0) discard;
  float core = 1.0 - smoothstep(0.40, 0.45, r);
  float halo = pow(1.0 - r, 2.2) * 0.6;
  float shine = 0.28 * (1.0 - smoothstep(0.0, 0.42, length(vAt - vec2(-0.12, 0.14))));
  float light = mix(1.0, 0.5, vDepth);
  gl_FragColor = vec4(vColour * light + shine * core, max(core, halo) * mix(1.0, 0.75, vDepth));
}
"""

SPARK_VERTEX = """
attribute vec2 corner;
attribute float birth;
attribute vec4 look;
uniform vec3 colour0;
uniform vec3 colour1;
uniform vec3 colour2;
uniform vec3 colour3;
uniform vec3 colour4;
varying vec2 vAt;
varying vec3 vColour;
varying float vAlpha;
varying float vRing;
varying float vPart;
void main() {
  float now = length(modelMatrix[3].xyz);
  float life = look.x;
  float part = clamp((now - birth) / max(life, 1e-6), 0.0, 1.0);
  float alive = step(1e-6, life) * step(birth, now) * (1.0 - step(birth + life, now));
  float eased = part * part * (3.0 - 2.0 * part);
  float along = look.y < 0.5 ? eased : (look.y < 1.5 ? 1.0 - eased : 1.0);
  vRing = look.y > 1.5 ? 1.0 : 0.0;
  mat4 model = modelMatrix;
  model[3] = vec4(0.0, 0.0, 0.0, 1.0);
  vec4 place = viewMatrix * model * vec4(position * along, 1.0);
  place.xy += corner * look.w * (vRing > 0.5 ? 0.3 + 1.2 * part : 0.15);
  gl_Position = alive > 0.5 ? projectionMatrix * place : vec4(2.0, 2.0, 2.0, 1.0);
  float fade = smoothstep(0.0, 0.1, part) * (1.0 - smoothstep(0.9, 1.0, part));
  vAlpha = vRing > 0.5 ? 1.0 - part : fade;
  vAt = corner;
  vPart = part;
  vColour = look.z < 0.5 ? colour0 : look.z < 1.5 ? colour1 : look.z < 2.5 ? colour2
          : look.z < 3.5 ? colour3 : colour4;
}
"""

SPARK_FRAGMENT = """
varying vec2 vAt;
varying vec3 vColour;
varying float vAlpha;
varying float vRing;
varying float vPart;
void main() {
  float r = length(vAt);
  if (r > 1.0) discard;
  float point = pow(1.0 - r, 1.5);
  float ring = 1.0 - smoothstep(0.01, 0.05, abs(r - 0.93));
  float glow = vRing > 0.5 ? ring * 0.85 + (1.0 - r) * 0.12 * (1.0 - vPart) : point;
  gl_FragColor = vec4(mix(vColour, vec3(1.0), vRing > 0.5 ? 0.0 : 0.25 * point), glow * vAlpha);
}
"""


def spark_uniforms() -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return the colours of sparks in the form that a shader material takes."""
    return {f"colour{index}": {"value": rgb(name)} for index, name in enumerate(COLOURS)}
