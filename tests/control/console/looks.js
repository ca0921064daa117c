/* What is wrong with how a page looks or what it tells to those who do not see it, as a list of sentences. */
() => {
  const found = [];
  const shown = (element) => element.checkVisibility({ checkVisibilityCSS: true }) && !element.closest(".hidden, .skip");

  // ---- contrast: WCAG 2.2, 1.4.3 ----
  const parse = (text) => {
    const [red, green, blue, alpha = 1] = text.match(/[\d.]+/g).map(Number);
    return { red, green, blue, alpha };
  };
  const luminance = ({ red, green, blue }) => {
    const [r, g, b] = [red, green, blue].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.alpha === 1) return colour;
      if (colour.alpha > 0) found.push(`a colour that is see-through: ${each.outerHTML.slice(0, 80)}`);
    }
    return { red: 255, green: 255, blue: 255 };
  };
  const ratio = (one, other) => {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  for (const element of document.body.querySelectorAll("*")) {
    const says = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!(says || element.matches("input, textarea, select")) || !shown(element) || element.matches("noscript, option")) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const has = ratio(parse(style.color), behind(element));
    if (has < least) found.push(`contrast of ${has.toFixed(2)}: ${element.outerHTML.slice(0, 80)}`);
  }

  // ---- names, structure ----
  for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!(field.labels.length || field.ariaLabel)) found.push(`no label: ${field.outerHTML.slice(0, 80)}`);
  }
  for (const element of document.querySelectorAll("button, a, summary")) {
    if (!(element.textContent.trim() || element.ariaLabel)) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
  }
  for (const image of document.images) if (!image.hasAttribute("alt")) found.push(`no alt: ${image.src.slice(0, 80)}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((each, at) => ids.indexOf(each) !== at))) found.push(`an id twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-labelledby]")) {
    if (!document.getElementById(element.getAttribute("aria-labelledby"))) found.push(`labelled by nothing: ${element.id}`);
  }
  for (const name of ["header", "main", "h1"]) {
    if (document.querySelectorAll(name).length !== 1) found.push(`not one <${name}>`);
  }
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) found.push(`a level is left out before ${heading.outerHTML.slice(0, 80)}`);
    level = own;
  }
  for (const cell of document.querySelectorAll("thead th")) if (!cell.scope) found.push(`no scope: ${cell.outerHTML}`);

  // ---- width ----
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) found.push(`${width} pixels wide in ${innerWidth}`);
  return found;
}
