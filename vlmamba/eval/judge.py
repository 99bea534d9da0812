"""A judge behind any OpenAI-compatible endpoint, for MM-Vet."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable

MAX_TOKENS = 3
MAX_ATTEMPTS = 6
_BUSY = (429, 500, 502, 503, 504)


def connect(
    base_url: str, model: str, api_key: str = "", *, timeout_s: float = 60
) -> Callable[[str, float], str]:
    """A function (message, temperature) -> reply of `model` at `base_url`, which ends in /v1.

    One user message, at most three tokens back, as MM-Vet's evaluator asks. A busy server is tried again after a
    pause. Raises ConnectionError with the server's own words.
    """
    url = f"{base_url.rstrip('/')}/chat/completions"
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"

    def ask(message: str, temperature: float) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": message}],
            "temperature": temperature,
            "max_tokens": MAX_TOKENS,
        }
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as response:
                    reply = json.load(response)
                return reply["choices"][0]["message"]["content"] or ""
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.read(300).decode(errors='replace')}"
                if error.code not in _BUSY or attempt == MAX_ATTEMPTS:
                    raise ConnectionError(f"the judge at {url} answered {reason}") from None
            except (urllib.error.URLError, TimeoutError) as error:
                if attempt == MAX_ATTEMPTS:
                    raise ConnectionError(
                        f"the judge at {url} cannot be reached: {error}"
                    ) from None
            except (KeyError, IndexError, json.JSONDecodeError):
                raise ConnectionError(f"the judge at {url} sent no chat completion") from None
            time.sleep(2.0**attempt)
        raise AssertionError("every attempt returns or raises")

    return ask
