"""llama-server's own routes: what is served, what slots do, and prompt caches in files."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from openai_fakes import CONTEXT, ScriptedEngine, http_get, http_post, serving, until

from enginebench_models import ChatTemplate
from enginebench_openai import messages
from enginebench_openai.loop import CacheFiled, FileCache

ASK = {"model": "fake", "prompt": "abc", "max_tokens": 40}


class KeepingEngine(ScriptedEngine):
    """Its cache is the prompts that it got."""

    slots = 1

    def save_cache(self, path: Path) -> int:
        path.write_text(json.dumps([list(request.prompt) for request in self.added]))
        return sum(len(request.prompt) for request in self.added)

    def restore_cache(self, path: Path) -> int:
        found = json.loads(path.read_text())
        if not isinstance(found, list):
            raise ValueError(f"{path.name} is no cache of this model")
        return sum(map(len, found))

    def erase_cache(self) -> int:
        count = sum(len(request.prompt) for request in self.added)
        self.added.clear()
        return count


def file(server, action: str, name: str):
    return http_post(f"{server.url}/slots/0?action={action}", json={"filename": name})


def test_a_cache_goes_to_a_file_and_comes_back(tmp_path):
    with serving(KeepingEngine(), slot_folder=tmp_path) as server:
        assert http_post(f"{server.url}/v1/completions", json=ASK).status_code == 200
        saved = file(server, "save", "chat.bin").json()
        assert (saved["id_slot"], saved["filename"], saved["n_saved"]) == (0, "chat.bin", 3)
        assert saved["timings"]["save_ms"] >= 0
        assert saved["n_written"] == (tmp_path / "chat.bin").stat().st_size
        erase = f"{server.url}/slots/0?action=erase"
        assert http_post(erase).json() == {"id_slot": 0, "n_erased": 3}
        assert http_post(erase).json()["n_erased"] == 0
        assert file(server, "restore", "chat.bin").json()["n_restored"] == 3
        assert [one.name for one in tmp_path.iterdir()] == ["chat.bin"]


@pytest.mark.parametrize(
    ("action", "name", "said"),
    [
        ("restore", "absent", "No such file"),
        ("restore", "damaged", "no cache of this model"),
        ("shred", "x", "save, restore or erase"),
        *(("save", name, "filename must be") for name in ("../x", "a/b", ".x", "", "/etc/x", "é")),
    ],
)
def test_what_cannot_be_filed_says_why(tmp_path, action, name, said):
    (tmp_path / "damaged").write_text("{}")
    with serving(KeepingEngine(), slot_folder=tmp_path) as server:
        answer = file(server, action, name)
        assert answer.status_code == 400 and said in answer.json()["error"]["message"]
        assert [one.name for one in tmp_path.iterdir()] == ["damaged"]


def test_a_busy_slot_a_closed_folder_and_an_engine_without_files(tmp_path):
    engine = KeepingEngine()
    with serving(engine, slot_folder=tmp_path) as server, ThreadPoolExecutor(1) as pool:
        engine.gate.clear()
        running = pool.submit(http_post, f"{server.url}/v1/completions", json=ASK)
        until(lambda: engine.added)
        (slot,) = http_get(f"{server.url}/slots").json()
        assert (slot["id"], slot["n_ctx"], slot["is_processing"]) == (0, CONTEXT, True)
        assert slot["next_token"] == {"has_next_token": True, "n_remain": 40, "n_decoded": 0}
        assert slot["params"]["max_tokens"] == 40 and slot["params"]["temperature"] == 1
        assert http_get(f"{server.url}/slots?fail_on_no_slot=1").status_code == 503
        busy = file(server, "save", "x")
        assert busy.status_code == 400 and "busy" in busy.json()["error"]["message"]
        engine.gate.set()
        assert running.result().status_code == 200
    with serving(KeepingEngine()) as server:
        assert file(server, "save", "x").status_code == 501
    with serving(ScriptedEngine(), slot_folder=tmp_path) as server:
        assert "cannot keep" in file(server, "save", "x").json()["error"]["message"]


def test_props_tell_context_slots_and_template():
    with serving(KeepingEngine(), chat_template=ChatTemplate("{{ messages }}")) as server:
        props = http_get(f"{server.url}/props").json()
        assert (props["total_slots"], props["model_alias"]) == (1, "fake")
        assert props["chat_template"] == "{{ messages }}"
        assert (props["bos_token"], props["eos_token"]) == ("<s>", "</s>")
        settings = props["default_generation_settings"]["params"]
        assert settings["n_ctx"] == CONTEXT and settings["repeat_last_n"] == 64
        assert (settings["temperature"], settings["top_k"], settings["min_p"]) == (0.8, 40, 0.05)
        assert http_get(f"{server.url}/slots?fail_on_no_slot=1").status_code == 200


def test_the_messages_cross_the_border_between_processes():
    (order,) = messages.Frames().cut(messages.frame(messages.File(FileCache("t", "save", "/x"))))
    assert messages.decode_down(order) == messages.File(FileCache("t", "save", "/x"))
    (result,) = messages.Frames().cut(messages.frame(messages.Filed(CacheFiled("t", 7, None))))
    assert messages.decode_up(result) == messages.Filed(CacheFiled("t", 7, None))
