// DAPE Tagger's tags as chips: a click leaves a tag out, Shift-click or a right click pins it. A choice is written
// into the node's own inputs `exclude` and `pin`, so it is saved with the workflow and works without this page.

import { app } from "../../scripts/app.js";

const TEXTS = {
  en: {
    empty: "Tags appear here after a run.",
    hint: "Click: leave out or take back. Shift-click or right-click: pin or unpin.",
  },
  zh: {
    empty: "运行后在此显示标签。",
    hint: "单击：排除或取消排除。按住 Shift 单击或右键单击：固定或取消固定。",
  },
};

const STYLE = `
.seesr-tags { display: flex; flex-wrap: wrap; align-content: flex-start; gap: 4px; overflow-y: auto; font-size: 11px;
  color: var(--descrip-text); }
.seesr-tags button { display: flex; gap: 4px; padding: 1px 7px; border: 1px solid var(--border-color);
  border-radius: 9px; background: var(--comfy-input-bg); color: var(--input-text); font: inherit; cursor: pointer; }
.seesr-tags button:disabled { cursor: default; }
.seesr-tags small { color: var(--descrip-text); font-size: inherit; }
.seesr-tags .pin { border-color: var(--p-primary-color, currentColor); }
.seesr-tags .pin::before { content: "★"; }
.seesr-tags .exclude { text-decoration: line-through; opacity: 0.55; }
`;

const same = (one, other) => one.toLowerCase() === other.toLowerCase();
const has = (words, word) => words.some((other) => same(word, other));

/** The words in a comma-separated input of a node. */
function read(node, input) {
  const text = node.widgets.find((widget) => widget.name === input).value;
  return text.split(/[,，]/).map((word) => word.trim()).filter(Boolean);
}

function write(node, input, words) {
  const widget = node.widgets.find((other) => other.name === input);
  widget.value = words.join(", ");
  widget.callback?.(widget.value);
}

/** Whether an input gets its words from another node, where a chip cannot change them. */
function isLinked(node, input) {
  return node.inputs?.some((slot) => slot.name === input && slot.link != null) ?? false;
}

/** Put `word` into one of the inputs `exclude` and `pin` and out of the other; out of both if it is there already. */
function toggle(node, word, input) {
  const other = input === "pin" ? "exclude" : "pin";
  if (isLinked(node, input)) return;
  const words = read(node, input);
  app.canvas.emitBeforeChange(); // one step for undo
  write(node, input, has(words, word) ? words.filter((known) => !same(known, word)) : [...words, word]);
  if (has(read(node, other), word)) {
    write(node, other, read(node, other).filter((known) => !same(known, word)));
  }
  app.canvas.emitAfterChange();
  node.graph?.setDirtyCanvas(true, true);
}

/** The highest score of each tag over the pictures of a batch: word -> score in 0..1. */
function best(pictures) {
  const scores = new Map();
  for (const { word, score } of pictures.flat()) {
    scores.set(word, Math.max(score, scores.get(word) ?? 0));
  }
  return scores;
}

/** Fill `element` with the found tags and those that were left out or pinned. */
function render(node, element, scores, texts) {
  const marks = { exclude: read(node, "exclude"), pin: read(node, "pin") };
  const words = [...scores.keys()];
  for (const word of [...marks.pin, ...marks.exclude]) {
    if (!has(words, word)) words.push(word);
  }
  const chips = words.map((word) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.title = texts.hint;
    chip.dataset.word = word;
    chip.className = ["exclude", "pin"].find((input) => has(marks[input], word)) ?? "";
    chip.disabled = isLinked(node, "exclude") && isLinked(node, "pin");
    chip.append(word);
    if (scores.has(word)) {
      const score = document.createElement("small");
      score.textContent = scores.get(word).toFixed(2);
      chip.append(score);
    }
    chip.addEventListener("click", (event) => toggle(node, word, event.shiftKey ? "pin" : "exclude"));
    chip.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
      toggle(node, word, "pin");
    });
    return chip;
  });
  element.replaceChildren(...(chips.length ? chips : [texts.empty]));
}

/** Call `then` after a method of an object. */
function after(object, method, then) {
  const before = object[method];
  object[method] = function (...given) {
    const result = before?.apply(this, given);
    then(...given);
    return result;
  };
}

app.registerExtension({
  name: "SeeSR.Tags",

  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
  },

  nodeCreated(node) {
    if (node.comfyClass !== "SeeSR_Tagger") return;
    const locale = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
    const texts = TEXTS[locale.split("-")[0]] ?? TEXTS.en;
    const element = document.createElement("div");
    element.className = "seesr-tags";
    const options = { serialize: false, getMinHeight: () => 60 };
    // The first keeps it out of the server's prompt, the second out of the saved workflow.
    node.addDOMWidget("tags", "seesr_tags", element, options).serialize = false;

    let scores = new Map();
    const update = () => render(node, element, scores, texts);
    for (const input of ["exclude", "pin"]) {
      after(node.widgets.find((widget) => widget.name === input), "callback", update);
    }
    after(node, "onConfigure", update); // the widgets now hold what was saved
    after(node, "onConnectionsChange", update);
    after(node, "onExecuted", (output) => {
      scores = best(output?.seesr_tags ?? []);
      update();
    });
    update();
  },
});
