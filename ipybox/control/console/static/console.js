/* The console's own script: live output, keys of the editor, and how long ago things were. Everything that comes from
 * code is put in as text; pictures are shown by <img> alone. Without this script all pages still work. */
(() => {
  "use strict";

  const MOST = 1_000_000; // characters that are shown at once
  const RUN = 16_384; // characters of one piece of text
  const ATTEMPTS = 6;
  const KINDS = ["stdout", "stderr", "display", "result", "error", "clear", "truncated", "end"];
  const PICTURES = ["image/png", "image/jpeg", "image/gif"];
  const ANSI = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])/g;
  const HIDDEN = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]/g;

  // ---- text ---------------------------------------------------------------------------------------------------

  const plain = (text) => String(text).replace(ANSI, "");

  const visible = (text) =>
    text.replace(HIDDEN, (char) => {
      const code = char.charCodeAt(0);
      return code < 256 ? "\\x" + code.toString(16).padStart(2, "0") : "\\u" + code.toString(16).padStart(4, "0");
    });

  /* A line that is written over, as progress bars do, as it looks in the end. A "\r" at the end of what has come so
   * far stays: what follows says what it means. */
  const overwritten = (text) =>
    text
      .replace(/\r+\n/g, "\n")
      .split("\n")
      .map((line) => {
        const end = line.endsWith("\r") ? "\r" : "";
        const kept = line.replace(/\r+$/, "");
        return kept.slice(kept.lastIndexOf("\r") + 1) + end;
      })
      .join("\n");

  const base64 = (text) => {
    const bytes = new TextEncoder().encode(text);
    let binary = "";
    for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return btoa(binary);
  };

  // ---- output -------------------------------------------------------------------------------------------------

  const element = (name, text) => {
    const made = document.createElement("span");
    made.className = name;
    made.textContent = visible(text);
    made.dataset.size = text.length;
    return made;
  };

  const picture = (source, words) => {
    const made = document.createElement("img");
    made.className = "shown";
    made.src = source;
    made.alt = visible(words.replace(/\s+/g, " ")) || "A picture that the code shows";
    made.dataset.size = Math.floor(source.length / 8); // a picture may take more room than text
    return made;
  };

  const shown = (bundle) => {
    const words = typeof bundle["text/plain"] === "string" ? plain(bundle["text/plain"]) : "";
    for (const type of PICTURES) {
      const content = bundle[type];
      if (typeof content === "string" && /^[A-Za-z0-9+/=\s]+$/.test(content)) {
        return picture(`data:${type};base64,${content.replace(/\s/g, "")}`, words);
      }
    }
    const drawing = bundle["image/svg+xml"];
    if (typeof drawing === "string") return picture(`data:image/svg+xml;base64,${base64(drawing)}`, words);
    if (words) return element("block text", words);
    const types = Object.keys(bundle).sort().join(", ") || "unknown";
    return element("block note", `Something of the type ${types}, not shown here.`);
  };

  class Output {
    constructor(place) {
      this.place = place;
      this.size = 0;
      this.clearNext = false;
    }

    take(kind, data) {
      const atEnd = this.place.scrollHeight - this.place.scrollTop - this.place.clientHeight < 40;
      if (kind === "clear") {
        if (data.wait) this.clearNext = true;
        else this.clear();
      } else {
        const made = this.made(kind, data);
        if (this.clearNext) this.clear();
        if (data.update) this.replace(data.display_id, made);
        else if (made) this.append(kind, made, data);
      }
      while (this.size > MOST && this.place.firstChild !== this.place.lastChild) this.cut();
      if (atEnd) this.place.scrollTop = this.place.scrollHeight;
    }

    made(kind, data) {
      if (kind === "error") return element("block error", plain((data.traceback || []).join("\n") || `${data.name}: ${data.value}`));
      if (kind === "truncated") return element("block note", `There was more ${data.stream || "output"} than is kept.`);
      if (kind === "display" || kind === "result") return shown(data.data || {});
      return document.createElement("span");
    }

    append(kind, made, data) {
      if (kind === "stdout" || kind === "stderr") return this.write(kind, plain(data.text));
      const before = this.place.lastElementChild;
      if (kind === "error" && before && before.textContent.trimEnd().endsWith(made.textContent.trimEnd())) return;
      if (data.display_id !== undefined && data.display_id !== null) made.dataset.display = data.display_id;
      this.place.append(made);
      this.size += Number(made.dataset.size);
    }

    write(kind, text) {
      let last = this.place.lastElementChild;
      if (!last || last.className !== kind || Number(last.dataset.size) > RUN) {
        last = element(kind, "");
        last.raw = "";
        this.place.append(last);
      }
      const before = last.raw.length;
      last.raw = text.includes("\r") || last.raw.endsWith("\r") ? overwritten(last.raw + text) : last.raw + text;
      last.textContent = visible(last.raw.replace(/\r$/, ""));
      last.dataset.size = last.raw.length;
      this.size += last.raw.length - before;
    }

    replace(id, made) {
      for (const old of [...this.place.querySelectorAll("[data-display]")]) {
        if (old.dataset.display !== String(id)) continue;
        const copy = made.cloneNode(true);
        copy.dataset.display = id;
        this.size += Number(made.dataset.size) - Number(old.dataset.size);
        old.replaceWith(copy);
      }
    }

    clear() {
      this.place.replaceChildren();
      this.size = 0;
      this.clearNext = false;
    }

    cut() {
      const first = this.place.firstElementChild;
      const note = "What came before is too long to be shown here.";
      const victim = first.dataset.cut ? first.nextElementSibling : first;
      if (!first.dataset.cut) {
        const said = element("block note", note);
        said.dataset.size = 0;
        said.dataset.cut = "yes";
        this.place.prepend(said);
      }
      this.size -= Number(victim.dataset.size);
      victim.remove();
    }
  }

  // ---- streams ------------------------------------------------------------------------------------------------

  const follow = (place) => {
    const state = place.parentElement.querySelector("[data-state]");
    const output = new Output(place);
    let last = 0;
    let failures = 0;
    const say = (text) => {
      if (state && state.textContent !== text) state.textContent = text;
    };

    const connect = () => {
      const source = new EventSource(`${place.dataset.stream}?after=${last}`);
      const take = (event) => {
        if (event.data === undefined) return lost();
        if (!place.isConnected) return source.close();
        const seq = Number(event.lastEventId);
        if (seq <= last) return;
        last = seq;
        failures = 0;
        if (event.type === "end") {
          source.close();
          say(place.childElementCount ? "That is all." : "It wrote nothing.");
          document.body.dispatchEvent(new CustomEvent("finished"));
          return;
        }
        say("Live");
        output.take(event.type, JSON.parse(event.data).data);
      };
      const lost = () => {
        if (!place.isConnected) return source.close();
        if (source.readyState !== EventSource.CLOSED) return say("The connection was lost; trying again.");
        failures += 1;
        if (failures > ATTEMPTS) return say("The connection was lost. Load the page again to go on.");
        say("The connection was lost; trying again.");
        setTimeout(connect, 500 * 2 ** failures);
      };
      for (const kind of KINDS) source.addEventListener(kind, take); // "error" is also what a broken stream is called
      source.addEventListener("open", () => say("Live"));
    };
    connect();
  };

  // ---- times --------------------------------------------------------------------------------------------------

  const ago = (then) => {
    const seconds = (Date.now() - then) / 1000;
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [step, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([each]) => size >= each);
    const text = `${Math.floor(size / step)} ${unit}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  };

  const tick = () => {
    for (const each of document.querySelectorAll("time[datetime]")) {
      const text = ago(Date.parse(each.dateTime));
      if (each.textContent !== text) each.textContent = text;
    }
  };

  // ---- the page -----------------------------------------------------------------------------------------------

  const attach = (root) => {
    for (const place of root.querySelectorAll("[data-stream]:not([data-followed])")) {
      place.dataset.followed = "yes";
      follow(place);
    }
  };

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    if (event.target instanceof HTMLTextAreaElement && event.target.matches("[data-run]")) {
      event.preventDefault();
      event.target.form.requestSubmit();
    }
  });
  document.addEventListener("htmx:afterSwap", () => attach(document));
  document.addEventListener("htmx:beforeRequest", (event) => {
    const verb = event.detail.requestConfig && event.detail.requestConfig.verb;
    const problem = document.getElementById("problem");
    if (verb === "post" && problem) problem.replaceChildren();
  });
  attach(document);
  setInterval(tick, 10_000);
})();
