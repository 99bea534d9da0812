"""MM-Vet's judge: the conversation with an endpoint, and the grading with a scripted one."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from layouts import LAYOUTS

from vlmamba.eval import judge
from vlmamba.eval.score import score_file
from vlmamba.eval.tasks import mmvet


class Endpoint(HTTPServer):
    """Answers chat completions from a script of (status, reply), and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[tuple[int, object]] = []
        self.asked: list[tuple[str, str | None, dict[str, object]]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        status, reply = self.server.script.pop(0)
        if isinstance(reply, str):
            reply = {"choices": [{"message": {"content": reply}}]}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(judge.time, "sleep", lambda seconds: None)
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_message_three_tokens(endpoint: Endpoint) -> None:
    endpoint.script = [(200, "0.7")]
    assert judge.connect(endpoint.url + "/", "gpt-4-0613", "key")("message", 0.5) == "0.7"
    path, key, body = endpoint.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer key")
    assert body == {
        "model": "gpt-4-0613",
        "messages": [{"role": "user", "content": "message"}],
        "temperature": 0.5,
        "max_tokens": 3,
    }


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    endpoint.script = [(429, {}), (503, {}), (200, "1.0")]
    assert judge.connect(endpoint.url, "m")("message", 0) == "1.0"
    assert endpoint.asked[0][1] is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([(401, {"error": "wrong key"})], "answered 401 .*wrong key"),
        ([(503, {})] * judge.MAX_ATTEMPTS, "answered 503"),
        ([(200, {"choices": []})], "no chat completion"),
    ],
)
def test_a_failing_endpoint_is_one_clear_error(
    endpoint: Endpoint, script: list[tuple[int, object]], message: str
) -> None:
    endpoint.script = script
    with pytest.raises(ConnectionError, match=message):
        judge.connect(endpoint.url, "m")("message", 0)


def test_answers_graded_by_an_endpoint_get_a_score(endpoint: Endpoint, tmp_path: Path) -> None:
    layout = LAYOUTS["mmvet"](tmp_path)
    questions, _ = mmvet.read(tmp_path)
    pairs = [(question, "an answer") for question in questions]
    endpoint.script = [(200, "1.0"), (200, "well"), (200, "nan"), (200, "0.5 or so")]
    ask = judge.connect(endpoint.url, "tester")
    grades = mmvet.grade_answers(pairs, ask, "PROMPT\n", "tester")
    assert grades == {
        "v1_0": {"model": ["tester"], "content": ["1.0"], "score": [1.0]},
        "v1_1": {"model": ["tester"], "content": ["0.5 or so"], "score": [0.5]},
    }
    messages = [body["messages"][0]["content"] for _, _, body in endpoint.asked]
    assert messages[0] == "PROMPT\n\nWhat 0? | a <AND> b | an answer | "
    assert messages[2] == messages[1] + "\nPredict the correctness of the answer (digit): "
    scores = score_file("mmvet", layout.answers, tmp_path, grades=grades)
    assert scores.value == 75
    assert scores.tables["capability"] == {"rec": 75, "ocr": 100, "total": 75, "std": 0}
    assert scores.tables["integration"] == {"ocr_rec": 100, "rec": 50, "total": 75}


def test_the_prompt_must_be_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    with pytest.raises(FileNotFoundError, match=r"mm-vet_evaluator\.py"):
        mmvet.read_judge_prompt(path)
    path.write_text("Compare the ground truth and prediction")
    with pytest.raises(ValueError, match=r"not MM-Vet's prompt \(39 bytes"):
        mmvet.read_judge_prompt(path)
