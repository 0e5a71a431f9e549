// One switch a page for all of its code.
(() => {
  "use strict";
  const cells = [...document.querySelectorAll(".cell details.hide.above-input")];
  const title = document.querySelector(".bd-article h1");
  if (!cells.length || !title) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-switch";
  const show = (shown) => {
    cells.forEach((cell) => (cell.open = shown));
    document.documentElement.classList.toggle("with-code", shown);
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? "Hide code" : "Show code";
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
  show(false);
  (document.querySelector(".bd-article p.minutes") || title).append(" ", button);
})();
