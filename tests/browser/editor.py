"""Use ComfyUI's page of a running server as a user does."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
ACT_MS, SHOW_MS = 120_000, 30_000  # enough for a slow machine
EMPTY = {"nodes": [], "links": [], "last_node_id": 0, "last_link_id": 0, "version": 0.4}
NODES_2 = "Comfy.VueNodes.Enabled"  # the page's setting

Json = dict[str, Any]


class Editor:
    """The page of a running server, as a user sees it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        page.set_default_timeout(ACT_MS)
        page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        page.on("console", self._listen)
        session = page.context.new_cdp_session(page)
        session.on("Runtime.consoleAPICalled", self._listen_with_stack)
        session.send("Runtime.enable")

    def _keep_ours(self, text: str, source: str) -> None:
        """Record a message that comes from the pack or names it."""
        if "seesr" in (text + source).lower():
            self.errors.append(f"{text} ({source})")

    def _listen(self, message: ConsoleMessage) -> None:
        """Record error messages, including those about files that do not load."""
        source = message.location.get("url", "")
        if source.endswith("/en.md"):
            return  # the page requests NODE/en.md before NODE.md for a node's help
        if source and not source.startswith(self.url):
            return  # the page asks the registry about nodes that were saved without the name of their pack
        if message.type == "error":
            self._keep_ours(message.text, source)

    def _listen_with_stack(self, event: Json) -> None:
        """Record warnings that the pack's script causes, such as the use of a deprecated function of the page."""
        if event["type"] == "warning":
            frames = event.get("stackTrace", {}).get("callFrames", [])
            text = " ".join(str(part.get("value", "")) for part in event["args"])
            self._keep_ours(text, " ".join(frame["url"] for frame in frames))

    def start(self) -> None:
        """Open the page and wait until it has every node."""
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.page.wait_for_function(
            "() => window.app?.vueAppReady && window.app.graph && window.LiteGraph?.registered_node_types?.SeeSR_Tagger"
        )

    def setting(self, name: str) -> Any:
        """Return one of the page's settings, or None if the page does not know it."""
        return self.page.evaluate("name => app.extensionManager.setting.get(name)", name)

    def set_setting(self, name: str, value: Any) -> None:
        """Change one of the page's settings."""
        self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])

    def speak(self, locale: str) -> None:
        """Switch the page to a language and reload it."""
        self.set_setting("Comfy.Locale", locale)
        self.start()

    def command(self, name: str) -> None:
        """Run one of the page's commands."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def open(self, graph: Json) -> None:
        """Open a workflow in a new tab."""
        self.page.evaluate("async graph => { await app.loadGraphData(graph, true, true); }", graph)

    def undo(self) -> None:
        """Undo the last step."""
        self.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()")

    def redo(self) -> None:
        """Redo the step that was undone."""
        self.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.changeTracker.redo()")

    def set(self, node_type: str, **values: Any) -> None:
        """Set widgets of all nodes of a type."""
        self.page.evaluate(
            """([type, values]) => {
                for (const node of app.canvas.graph.nodes.filter((node) => node.type === type))
                    for (const [name, value] of Object.entries(values)) {
                        const widget = node.widgets.find((widget) => widget.name === name);
                        widget.value = value;
                        widget.callback?.(value);
                    }
            }""",
            [node_type, values],
        )

    def add(self, node_type: str, **values: Any) -> int | str:
        """Add a node with these widget values to the right end of the row in the open graph; return its id."""
        return self.page.evaluate(
            """([type, values]) => {
                const graph = app.canvas.graph, node = LiteGraph.createNode(type);
                node.pos = [350 * graph.nodes.length, 0];
                graph.add(node);
                for (const [name, value] of Object.entries(values)) {
                    const widget = node.widgets.find((widget) => widget.name === name);
                    widget.value = value;
                    widget.callback?.(value);
                }
                return node.id;
            }""",
            [node_type, values],
        )

    def connect(self, source: int | str, output: str, target: int | str, name: str) -> None:
        """Link an output of a node, given by name or type, to an input of another node. Nodes are given by id."""
        self.page.evaluate(
            """([from, output, to, name]) => {
                const source = app.canvas.graph.getNodeById(from), target = app.canvas.graph.getNodeById(to);
                const slot = source.outputs.findIndex((slot) => [slot.name, slot.type].includes(output));
                source.connect(slot, target, target.findInputSlot(name));
            }""",
            [source, output, target, name],
        )

    def disconnect(self, node: int | str, name: str) -> None:
        """Remove the link from an input of a node."""
        self.page.evaluate(
            """([id, name]) => {
                const node = app.canvas.graph.getNodeById(id);
                node.disconnectInput(node.findInputSlot(name));
            }""",
            [node, name],
        )

    def node_id(self, node_type: str) -> int | str:
        """Return the id of the first node of a type in the open graph."""
        return self.page.evaluate("type => app.canvas.graph.nodes.find((node) => node.type === type).id", node_type)

    def use_nano(self) -> None:
        """Replace the loaders of the open workflow and of its subgraphs by one Load Nano each."""
        self.page.evaluate(
            """() => {
                for (const graph of [app.graph, ...app.graph.nodes.map((node) => node.subgraph).filter(Boolean)]) {
                    const types = ["CheckpointLoaderSimple", "SeeSR_LoadModel", "SeeSR_LoadDAPE"];
                    const loaders = graph.nodes.filter((node) => types.includes(node.type));
                    if (!loaders.length) continue;
                    const nano = LiteGraph.createNode("SeeSR_LoadNano");
                    nano.pos = [...loaders[0].pos];
                    graph.add(nano);
                    for (const { id, outputs } of loaders) {
                        for (const [from, { type }] of outputs.entries()) {
                            const slot = nano.outputs.findIndex((output) => output.type === type);
                            const links = [...graph.links.values()]
                                .filter((link) => link.origin_id === id && link.origin_slot === from);
                            for (const { target_id, target_slot } of links)
                                nano.connect(slot, graph.getNodeById(target_id), target_slot);
                        }
                    }
                    for (const loader of loaders) graph.remove(loader);
                }
            }"""
        )

    def value(self, node_type: str, widget: str) -> Any:
        """Return the value of a widget of the first node of a type."""
        return self.page.evaluate(
            """([type, name]) => app.canvas.graph.nodes.find((node) => node.type === type)
                .widgets.find((widget) => widget.name === name).value""",
            [node_type, widget],
        )

    def saved(self) -> Json:
        """Return the open workflow as the page saves it."""
        return self.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")

    def prompt(self) -> Json:
        """Return the open workflow as the page sends it to the server."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def picture(self, name: str, box: Json | None = None) -> None:
        """Save a picture of the page, or of a box of the page, as docs/NAME.jpg, if SEESR_PICTURES is set."""
        if not os.environ.get("SEESR_PICTURES"):
            return
        self.page.wait_for_timeout(3000)  # animations have ended by then
        shot = self.page.screenshot(clip=box, type="jpeg", quality=70)
        with Image.open(io.BytesIO(shot)) as image:
            wanted = box or self.page.viewport_size
            assert abs(image.width - wanted["width"]) <= 1 and abs(image.height - wanted["height"]) <= 1  # whole pixels
            assert not_blank(image)
        (ROOT / "docs" / f"{name}.jpg").write_bytes(shot)

    def look_at(self, node_type: str, zoom: float = 1.0) -> Json:
        """Move the node with a type or title to the middle of the window; return the box around the node."""
        return self.page.evaluate(
            """([type, zoom]) => {
                const node = app.canvas.graph.nodes.find((node) => [node.type, node.title].includes(type));
                const [x, y] = node.pos, [width, height] = node.size;
                app.canvas.deselectAll();
                app.canvas.ds.scale = zoom;
                app.canvas.ds.offset = [480 / zoom - x, 220 / zoom - y];
                app.canvas.setDirty(true, true);
                return { x: 470, y: 210 - 40 * zoom, width: width * zoom + 20, height: (height + 40) * zoom + 20 };
            }""",
            [node_type, zoom],
        )

    def look_at_row(self) -> None:
        """Move the row of nodes that ``add`` makes into the window."""
        self.page.evaluate(
            """() => {
                app.canvas.ds.scale = 1;
                app.canvas.ds.offset = [80, 160];
                app.canvas.setDirty(true, true);
            }"""
        )

    def fit_view(self) -> None:
        """Move all nodes into the window, and wait until the view stops moving.

        In Nodes 2.0, page 1.32.9 misplaces a node that grows (for example to show a preview) while the view moves.
        """
        self.command("Comfy.Canvas.FitView")
        self.page.evaluate(
            """async () => {
                for (let before = "", frames = 0; frames < 20; frames++) {
                    await new Promise(requestAnimationFrame);
                    const view = JSON.stringify([app.canvas.ds.scale, ...app.canvas.ds.offset]);
                    if (view !== before) [before, frames] = [view, 0];
                }
            }"""
        )

    def run(self) -> list[tuple[str, Json]]:
        """Run the open workflow, which must succeed; return the server's events as (event, details).

        Page 1.32.9 drops the outputs of a run that it does not know yet. So events are held back until the server has
        answered the page's request.
        """
        events = self.page.evaluate(
            """async (limit) => {
                const ends = ["execution_success", "execution_error", "execution_interrupted"];
                const seen = [], listeners = [];
                const shown = () => Object.keys(app.nodePreviewImages); // the nodes with a preview on them
                const ended = new Promise((resolve) => {
                    for (const name of ["progress", "b_preview", "executed", ...ends]) {
                        const listener = ({ detail }) => {
                            seen.push([name, name === "b_preview" ? shown() : detail]);
                            if (ends.includes(name)) resolve();
                        };
                        app.api.addEventListener(name, listener);
                        listeners.push([name, listener]);
                    }
                });
                const held = [];
                app.api.dispatchCustomEvent = (...event) => held.push(event); // hides the method of its class
                await app.queuePrompt(0, 1);
                delete app.api.dispatchCustomEvent;
                for (const event of held) app.api.dispatchCustomEvent(...event);
                if (Object.keys(app.lastNodeErrors ?? {}).length) seen.push(["refused", app.lastNodeErrors]);
                else await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, limit))]);
                for (const [name, listener] of listeners) app.api.removeEventListener(name, listener);
                return seen;
            }""",
            ACT_MS,
        )
        assert events and events[-1][0] == "execution_success", events
        return events


def shipped(name: str) -> Json:
    """Return a workflow that the pack ships."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


def not_blank(image: Image.Image) -> bool:
    """Tell whether a picture shows anything: its brightness deviates by more than 10 of 255 (an empty canvas: 2)."""
    return float(np.asarray(image.convert("L"), float).std()) > 10
