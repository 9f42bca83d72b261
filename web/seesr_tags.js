// Shows DAPE Tagger's tags as chips: a click leaves a tag out, a Shift-click or right click pins it. A choice is
// written into the node's inputs `exclude` and `pin`, so it is saved with the workflow and works without this page.
// The last chip switches the language of the chips; that choice is saved as a property of the node. The found tags are
// read from the page's list of outputs, because undo and a change of the tab make new nodes but keep that list.

import { app } from "../../scripts/app.js";

const TEXTS = {
  en: {
    empty: "Tags appear here after a run.",
    hint: "Click: leave out or take back. Shift-click or right-click: pin or unpin.",
    language: "Show the tags in the other language. The node's outputs do not change.",
  },
  zh: {
    empty: "运行后在此显示标签。",
    hint: "单击：排除或取消排除。按住 Shift 单击或右键单击：固定或取消固定。",
    language: "用另一种语言显示标签。节点的输出不变。",
  },
};

const LANGUAGE = "seesr_tag_language"; // the property: english or chinese; without it, that of the node's output
const LANGUAGES = { english: "English", chinese: "中文" };

const STYLE = `
.seesr-tags { display: flex; flex-wrap: wrap; align-content: flex-start; gap: 4px; overflow-y: auto; font-size: 11px;
  color: var(--descrip-text); }
.seesr-tags button { display: flex; gap: 4px; padding: 1px 7px; border: 1px solid var(--border-color);
  border-radius: 9px; background: var(--comfy-input-bg); color: var(--input-text); font: inherit; cursor: pointer; }
.seesr-tags button:disabled { cursor: default; }
.seesr-tags small { color: var(--descrip-text); font-size: inherit; }
.seesr-tags .pin { border-color: var(--p-primary-color, currentColor); }
.seesr-tags .pin::before { content: "★"; }
.seesr-tags .language { border-style: dashed; color: var(--descrip-text); }
.seesr-tags .exclude { text-decoration: line-through; opacity: 0.55; }
`;

// Tags that runs have found, by every name in lower case, so that a tag that is left out has both its names.
const known = new Map();
const updates = new WeakMap(); // node -> the function that updates its chips

/** A word without the question mark that says of a pinned tag that it is only likely. */
const plain = (word) => word.replace(/\s*[?？]$/, "");
const same = (one, other) => plain(one).toLowerCase() === plain(other).toLowerCase();
const has = (words, word) => words.some((other) => same(word, other));

/** Whether an input is linked to another node; chips cannot change such an input. */
function isLinked(node, input) {
  const slot = node.findInputSlot(input);
  return slot >= 0 && node.isInputConnected(slot);
}

/** The words in a comma-separated input of a node; none if the input is linked. */
function read(node, input) {
  if (isLinked(node, input)) return [];
  const text = node.widgets.find((widget) => widget.name === input).value;
  return String(text ?? "").split(/[,，]/).map((word) => word.trim()).filter(Boolean);
}

function write(node, input, words) {
  const widget = node.widgets.find((other) => other.name === input);
  widget.value = words.join(", ");
  widget.callback?.(widget.value);
}

/** Every name of a tag {word, score, english, chinese}. */
const names = (tag) => [tag.word, tag.english, tag.chinese].filter(Boolean);
const isAmong = (words, tag) => names(tag).some((name) => has(words, name));

/** Change a node in one step for undo. */
function change(node, act) {
  app.canvas.emitBeforeChange();
  act();
  app.canvas.emitAfterChange();
  node.graph?.setDirtyCanvas(true, true);
}

/** Move a tag into `exclude` or `pin` and out of the other input; if it is there already, remove it. */
function toggle(node, tag, input) {
  const other = input === "pin" ? "exclude" : "pin";
  if (isLinked(node, input)) return;
  const words = read(node, input);
  const without = (list) => list.filter((word) => !has(names(tag), word));
  change(node, () => {
    write(node, input, isAmong(words, tag) ? without(words) : [...words, plain(tag.word)]);
    if (isAmong(read(node, other), tag)) write(node, other, without(read(node, other)));
  });
}

/** The tags of a batch of pictures, each once with its highest score. */
function best(pictures) {
  const tags = new Map();
  for (const tag of pictures.flat()) {
    if (!(tags.get(tag.word)?.score >= tag.score)) tags.set(tag.word, tag);
  }
  return [...tags.values()];
}

/**
 * The node that produced an output of the page's list. The list's key is "7" in the root graph and "SUBGRAPH:7" in a
 * subgraph, or "3:7" where 3 is the node that holds the subgraph.
 */
function nodeAt(key) {
  let graph = app.rootGraph;
  let node;
  for (const id of key.split(":")) {
    node = graph?.getNodeById(id);
    graph = app.rootGraph.subgraphs.get(id) ?? node?.subgraph;
  }
  return node;
}

/** The tags that a node's last run found. */
function lastFound(node) {
  const key = Object.keys(app.nodeOutputs).findLast((other) => nodeAt(other) === node);
  return best(app.nodeOutputs[key]?.seesr_tags ?? []);
}

/** The language of the chips. */
function language(node, tags) {
  return node.properties[LANGUAGE] ?? (tags.some(({ word, chinese, score }) => score !== undefined && word === chinese) ? "chinese" : "english");
}

/** Fill `element` with the tags that the last run found, and with those that are left out or pinned. */
function render(node, element, texts) {
  const tags = lastFound(node);
  for (const tag of tags) {
    for (const name of names(tag)) known.set(name.toLowerCase(), tag);
  }
  const marks = { exclude: read(node, "exclude"), pin: read(node, "pin") };
  for (const word of [...marks.pin, ...marks.exclude]) {
    if (tags.some((tag) => has(names(tag), word))) continue;
    const { english, chinese } = known.get(plain(word).toLowerCase()) ?? {};
    tags.push({ word, english, chinese });
  }
  const chips = tags.map((tag) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.title = [[...new Set(names(tag))].join(" · "), texts.hint].join("\n");
    chip.dataset.word = tag.word;
    chip.className = ["exclude", "pin"].find((input) => isAmong(marks[input], tag)) ?? "";
    chip.disabled = isLinked(node, "exclude") && isLinked(node, "pin");
    chip.append(tag[node.properties[LANGUAGE]] ?? tag.word);
    if (tag.score !== undefined) {
      const score = document.createElement("small");
      score.textContent = tag.score.toFixed(2);
      chip.append(score);
    }
    chip.addEventListener("click", (event) => toggle(node, tag, event.shiftKey ? "pin" : "exclude"));
    chip.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
      toggle(node, tag, "pin");
    });
    return chip;
  });
  if (tags.some((tag) => tag.chinese)) {
    const other = language(node, tags) === "english" ? "chinese" : "english";
    const chip = document.createElement("button");
    chip.type = "button";
    chip.title = texts.language;
    chip.className = "language";
    chip.append(LANGUAGES[other]);
    chip.addEventListener("click", () => {
      change(node, () => node.setProperty(LANGUAGE, other));
      render(node, element, texts);
    });
    chips.push(chip);
  }
  element.replaceChildren(...(chips.length ? chips : [texts.empty]));
}

/**
 * Put the node's own element into the page. Nodes 2.0 takes a widget's element once per node id, and keeps it when
 * undo, another tab or another graph brings another node with that id.
 */
function mount(node, element) {
  if (node.graph !== app.canvas.graph) return;
  const shown = document.querySelector(`[data-node-id="${node.id}"] .seesr-tags`);
  if (shown && shown !== element) shown.replaceWith(element);
}

/** Call `then` after a method of an object. */
function after(object, method, then) {
  const before = object[method];
  object[method] = function (...given) {
    const result = before?.apply(this, given);
    then();
    return result;
  };
}

app.registerExtension({
  name: "seesr.tags",

  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    app.canvas.canvas.addEventListener("litegraph:set-graph", () => {
      for (const node of app.canvas.graph.nodes) updates.get(node)?.();
    });
  },

  onNodeOutputsUpdated(outputs) {
    for (const key of Object.keys(outputs)) updates.get(nodeAt(key))?.();
  },

  nodeCreated(node) {
    if (node.comfyClass !== "SeeSR_Tagger") return;
    const locale = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
    const texts = TEXTS[locale.split("-")[0]] ?? TEXTS.en;
    const element = document.createElement("div");
    element.className = "seesr-tags";
    const options = { serialize: false, getMinHeight: () => 60 };
    // `options.serialize` keeps the widget out of the server's prompt, `widget.serialize` out of the saved workflow.
    node.addDOMWidget("tags", "seesr_tags", element, options).serialize = false;

    const update = () => {
      render(node, element, texts);
      requestAnimationFrame(() => mount(node, element)); // after the page has updated its own elements
    };
    updates.set(node, update);
    for (const input of ["exclude", "pin"]) {
      after(node.widgets.find((widget) => widget.name === input), "callback", update);
    }
    after(node, "onConfigure", update); // the widgets now have their saved values
    after(node, "onConnectionsChange", update);
    after(node, "onExecuted", update);
    update();
  },
});
