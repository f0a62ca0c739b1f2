// Takes a one-time code from behind the "#" of a link into the form.  It was never sent to a
// server, and does not stay in the address or the history either.
"use strict";
const field = document.querySelector("input[data-code]");
const code = decodeURIComponent(location.hash.slice(1));
if (field && /^[\w-]{16,100}$/.test(code)) {
  field.value = code;
  history.replaceState(null, "", location.pathname + location.search);
  const next = [...field.form.elements].find((each) => each.type !== "hidden" && !each.value);
  if (next) { next.focus(); }
}
