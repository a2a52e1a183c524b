"""What must not leave with a push: passwords, tokens and keys in any text of a folder, its pictures' texts included.

    for finding in findings(folder, ["README.md", "curves.png"]):
        print(finding.said)     # "an AWS key in README.md, line 12"; never the secret itself

The rules are those of detect-secrets (Yelp, Apache-2.0), less the ones that take every checksum for a key, and a few of
our own. Read are: names of files; texts in UTF-8, UTF-16 and UTF-32; JSON with its escapes undone; headers of
safetensors; the text chunks of PNG, compressed ones too; JPEG, WebP and other pictures, with their EXIF and XMP;
strings, lists and pictures in the columns of parquet, and its metadata. What is encoded once more (base64, archives,
pixels) is not.
"""

import bisect
import hashlib
import html
import importlib
import itertools
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

PIECE_BYTES, OVERLAP_BYTES = 4 << 20, 16 << 10  # of a text that is read in pieces
UNPACKED_BYTES = 16 << 20  # of the compressed texts of one picture; with larger ones it isn't pushed
ROWS = 1000  # of a parquet file at a time

# {what it finds: (small letters of which a text must have one, the rule)}
OURS = {
    "a Hugging Face token": (("hf_", "api_org_"), r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}\b"),
    "a private key": (
        ("private key", "putty"),
        r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-[23]:",
    ),
    "a GitHub token": (("gh", "github_pat_"), r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})\b"),
    "an OpenAI or Anthropic key": (("sk-",), r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}\b"),
    "an AWS key": (("akia", "asia"), r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a Google key": (
        ("aiza", "gocspx", "ya29."),
        r"\bAIza[A-Za-z0-9_-]{35}|\bGOCSPX-[A-Za-z0-9_-]{20,}|\bya29\.[A-Za-z0-9_-]{20,}",
    ),
    "a Slack token": (("xox", "xapp-"), r"\bx(?:ox[abeprs]|app)-[A-Za-z0-9-]{10,}\b"),
    "a Weights & Biases key": (("wandb_api_key",), r"(?i)\bWANDB_API_KEY\W{1,4}[a-f0-9]{40}\b"),
    "a Stripe key": (
        ("k_live_", "k_test_", "whsec_"),
        r"\b(?:[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{24,})",
    ),
    "an npm token": (("npm_",), r"\bnpm_[A-Za-z0-9]{36}\b"),
    "an Azure key": (
        ("accountkey", "sharedaccesskey", "sig="),
        r"(?i)\b(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}={0,2}|[?&]sig=[A-Za-z0-9%+/]{40,}",
    ),
    "an authorization header": (
        ("authorization",),
        r"(?i)\bauthorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token)\s{1,4}[\w.~+/-]{16,}",
    ),
}

# {module.class of detect_secrets.plugins: (what it finds, a text without which it finds nothing, in small letters)}.
# Around that text alone its rules are tried where they would take for ever otherwise. Not among them: the two that go
# by entropy, to which each sha256 of a manifest is a key; IP addresses; and the keywords and JWT, which come below.
PLUGINS = {
    "aws.AWSKeyDetector": ("an AWS key", ""),
    "artifactory.ArtifactoryDetector": ("an Artifactory token", "akc"),
    "azure_storage_key.AzureStorageKeyDetector": ("an Azure key", "accountkey="),
    "basic_auth.BasicAuthDetector": ("a password in an address", ""),
    "cloudant.CloudantDetector": ("a Cloudant key", "cloudant"),
    "discord.DiscordBotTokenDetector": ("a Discord token", ""),
    "github_token.GitHubTokenDetector": ("a GitHub token", ""),
    "gitlab_token.GitLabTokenDetector": ("a GitLab token", ""),
    "ibm_cloud_iam.IbmCloudIamDetector": ("an IBM Cloud key", "ibm"),
    "ibm_cos_hmac.IbmCosHmacDetector": ("an IBM Cloud key", "secret"),
    "mailchimp.MailchimpDetector": ("a Mailchimp key", "-us"),
    "npm.NpmDetector": ("an npm token", ":_authtoken"),
    "openai.OpenAIDetector": ("an OpenAI or Anthropic key", "t3blbkfj"),
    "private_key.PrivateKeyDetector": ("a private key", ""),
    "pypi_token.PypiTokenDetector": ("a PyPI token", ""),
    "sendgrid.SendGridDetector": ("a SendGrid key", ""),
    "slack.SlackDetector": ("a Slack token", "slack.com"),
    "softlayer.SoftlayerDetector": ("a SoftLayer key", "softlayer"),
    "square_oauth.SquareOAuthDetector": ("a Square key", ""),
    "stripe.StripeDetector": ("a Stripe key", ""),
    "telegram_token.TelegramBotTokenDetector": ("a Telegram token", ""),
    "twilio.TwilioKeyDetector": ("a Twilio key", ""),
}
JWT = re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_=-]{5,4096}\.[A-Za-z0-9_=-]{2,8192}")

PASSWORD = (
    r"pass(?:word|wd|phrase|wort)|(?<![a-z])(?:[dp]b_?|database_?|key_?)?pass(?![a-z])|passwort|kennwort|pwd"
    r"|contrase[ñn]a"
)
KEY = (
    r"(?:api|auth|service|account|db|database|priv|private|client|access|encryption|signing)[_-]?key|secret"
    r"|credentials?|(?:access|auth|api|bearer|refresh|hub|bot|session|id|hf|deploy)[_-]?token"
)
CORE = re.compile(r"pass|pwd|kennwort|contrase|secret|credential|token|key")
KEYWORD = re.compile(rf"(?i)({PASSWORD})|{KEY}")
ASSIGNED = re.compile(
    r"(?P<more>[\w-]{0,40})[\"'`\]]{0,3}[^\S\r\n]{0,8}(?P<sign>:=|=>|[:=]{1,3}|!==?|\(|>(?=[^\s>]))[^\S\r\n]{0,8}"
    r"(?:[@\[]?(?P<quote>[\"'`])(?P<quoted>[^\"'`\n\v]{4,200})|(?P<bare>[^\s\"'`,;()<>{}\[\]]{6,200}))"
)
# A name that goes on like this is about a password, and isn't one.
ABOUT = re.compile(
    r"(?i)[_-]?(?:len|length|type|name|field|col|column|file|path|policy|hint|min|max|count|size|label|regex|pattern"
    r"|id)\w*$"
)
STANDS_IN = re.compile(
    r"(?i)(?:none|null|nil|true|false|undefined|unset|required|optional|string|x{3,}|\*+|\.{3,}|…|\W*"
    r"|(?:your|my|the|some|a)[_ -](?:own[_ -])?(?:\w+[_ -])?(?:pass(?:word|phrase)?|secret|token|key)(?:[_ -]here)?"
    r"|password|passphrase|secret|token|changeme|redacted|hidden|example|placeholder"
    r"|(?:os\.)?(?:environ|getenv|env)\b.*|(?:self|args|cfg|config|secrets|process|st)\.\w.*|[\w.]+\(.*|\w*_\*{3}"
    r"|[\w-]*\.{3,}[\w-]*)"
)


FILE = re.compile(r"[\w/.-]+\.(?:md|txt|json|jsonl|py|html?|csv|png|jpe?g)")


@dataclass(frozen=True)
class Finding:
    """One secret: what it is, in which file and where in it. The secret itself is in no text that this gives."""

    kind: str
    file: str
    spot: str  # "line 12", "column text, row 7", "text 3", or "" where the file says it all
    secret: str

    @property
    def said(self) -> str:
        return f"{self.kind} in {self.file}" + (f", {self.spot}" if self.spot else "")

    @property
    def place(self) -> str:
        """The name by which this finding, and no other, is called harmless.

        It ends in 16 bits of a slow hash: another secret at the same place has another name, which tells nothing of it.
        """
        salt = f"{self.kind}\n{self.where}".encode()
        bits = hashlib.scrypt(self.secret.encode(errors="replace"), salt=salt, n=2**13, r=8, p=1, dklen=2).hex()
        return f"{self.where}:{bits}"

    @property
    def where(self) -> str:
        return f"{self.file}:{self.spot}".replace(", ", ":").replace(" ", "-")


class ScanError(RuntimeError):
    """One sentence: why a folder can't be looked through, and what to do."""


def findings(folder: Path, names: Sequence[str], harmless: Sequence[str] = ()) -> Iterator[Finding]:
    """What in these files looks like a secret, file by file, less what was called harmless by its place.

    Raises ScanError where the rules are not installed, or a file can't be looked through.
    """
    named = {place.rsplit(":", 1)[0] for place in harmless}
    seen = set()
    for name in names:
        around = itertools.chain([(name, lambda _: "its name")], _texts(folder / name))
        for text, spot in around:
            for kind, start, secret in secrets_in(text):
                file = "a file" if spot(start) == "its name" else name
                finding = Finding(kind, file, spot(start), secret)
                if finding in seen:
                    continue
                seen.add(finding)
                if not (finding.where in named and finding.place in harmless):
                    yield finding


# ---- the rules -------------------------------------------------------------------------------------------------------


@cache
def _plugins() -> list[tuple[str, str, list[re.Pattern], Any]]:
    """(what it finds, text that it needs, rules, plugin) of each plugin in use. Raises ScanError without them."""
    try:
        found = []
        for path, (kind, needs) in PLUGINS.items():
            module, name = path.split(".")
            plugin = getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)()
            found.append((kind, needs, list(plugin.denylist), plugin))
        return found
    except ModuleNotFoundError as error:
        raise ScanError(
            "a push looks for secrets first, with the rules of detect-secrets, which is not installed: make setup, or "
            f"pip install 'vitrail[train]' ({error})"
        ) from error


@cache
def _jwt_is_valid() -> Callable[[str], bool]:
    return importlib.import_module("detect_secrets.plugins.jwt").JwtTokenDetector.is_formally_valid


@cache
def _ours() -> list[tuple[str, tuple[str, ...], re.Pattern]]:
    return [(kind, needs, re.compile(pattern)) for kind, (needs, pattern) in OURS.items()]


def secrets_in(text: str) -> Iterator[tuple[str, int, str]]:
    """(kind, where it starts, the secret) of each; what one rule has found, a later one doesn't find again."""
    taken: list[tuple[int, int]] = []
    for kind, start, secret in _by_rules(text):
        stop = start + len(secret)
        if not any(start < there and here < stop for here, there in taken):
            taken.append((start, stop))
            yield kind, start, secret


def _by_rules(text: str) -> Iterator[tuple[str, int, str]]:
    plugins = _plugins()
    if token := get_token():
        for match in re.finditer(re.escape(token), text):
            yield "your own Hugging Face token", match.start(), token
    small = text.lower()
    if len(small) != len(text):  # a few letters have two small ones, and places would shift
        small = "".join(c if c.isascii() else "?" for c in text).lower()
    for kind, needs, pattern in _ours():
        if any(need in small for need in needs):
            for match in pattern.finditer(text):
                yield kind, match.start(), match[0]
    for kind, needs, rules, plugin in plugins:
        for begin, part in _around(text, small, needs):
            for match in itertools.chain.from_iterable(rule.finditer(part) for rule in rules):
                if any(plugin.analyze_string(match[0])):
                    yield kind, begin + match.start(), match[0]
    for match in JWT.finditer(text):
        if _jwt_is_valid()(match[0]):
            yield "a JSON web token", match.start(), match[0]
    yield from _assigned(text, small)


def _around(text: str, small: str, needs: str) -> Iterator[tuple[int, str]]:
    """(start, text) of what a rule is tried on: all, or what lies around the text without which it finds nothing."""
    if not needs:
        yield 0, text
        return
    at = small.find(needs)
    while at >= 0:
        begin = max(0, at - 300)
        yield begin, text[begin : at + 300]
        at = small.find(needs, at + 300)


def _assigned(text: str, small: str) -> Iterator[tuple[str, int, str]]:
    """Passwords and keys by the name that they are given: password = "…", "api_key": "…", DB_PASSWORD=….

    After detect-secrets' keyword rules, which find one per line and take prose for passwords in configuration.
    """
    end = 0
    for core in CORE.finditer(small):  # quickly found; most texts have few
        word = KEYWORD.search(text, max(end, core.start() - 16), core.end() + 12)
        if word is None or word.end() < core.end():
            continue
        end = word.end()
        match = ASSIGNED.match(text, end)
        if match is None or ABOUT.fullmatch(match["more"]):
            continue
        value = (match["quoted"] or match["bare"]).strip()
        if len(value) < 4 or STANDS_IN.fullmatch(value) or value[0] in "$%<{[&" or not value.isprintable():
            continue
        kind = "a password" if word[1] else "a key or secret"
        if not re.search(r"[^\W\d_]", value) or FILE.fullmatch(value) or (match["sign"] == ">" and not word[1]):
            continue
        if match["quoted"]:
            good = word[1] or " " not in value  # a caption about a secret has spaces in it
        else:
            shouted = text[word.start() : word.end()].isupper() and match["sign"] == "="
            good = (shouted or re.search(r"[\d!#$%&*+/=?@^~-]", value)) and match["sign"] != "("
        if good:
            yield kind, match.start("quoted" if match["quoted"] else "bare"), value


# ---- the texts -------------------------------------------------------------------------------------------------------

Text = tuple[str, Callable[[int], str]]  # and what to call the place in it that is so many characters in


def _texts(path: Path) -> Iterator[Text]:
    """All that can be read in a file. Raises ScanError."""
    if path.suffix == ".parquet":
        yield from _in_parquet(path)
        return
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(0)
        if path.suffix == ".safetensors":  # tensors are no text, and large; the header is
            header = file.read(8 + min(int.from_bytes(start[:8], "little"), 100 << 20))[8:]
            yield _unescaped(_decoded(header)), lambda _: ""
        elif _is_picture(start):
            for number, text in enumerate(_in_picture(file.read(), path.name), 1):
                yield text, lambda _, number=number: f"text {number}"
        else:
            yield from _in_text(file, path.suffix in (".json", ".jsonl"))


def _in_text(file, is_json: bool) -> Iterator[Text]:
    """A text, piece by piece, each with the end of the one before."""
    lines, tail = 1, b""
    while piece := file.read(PIECE_BYTES):
        content = tail + piece
        text = _decoded(content)
        for view in _views(text, is_json):
            yield view, lambda start, view=view, lines=lines: f"line {lines + view.count(chr(10), 0, start)}"
        tail = content[-OVERLAP_BYTES:]
        lines += content.count(b"\n") - tail.count(b"\n")


def _decoded(content: bytes) -> str:
    """A text in whatever Unicode: in UTF-16 and UTF-32 what ASCII can write has zeros around it, nothing else."""
    return content.replace(b"\0", b"").decode("utf-8", errors="replace")


def _views(text: str, is_json: bool = False) -> Iterator[str]:
    """The text, and as it reads with escapes of JSON or entities of XML undone; lines stay where they are."""
    if is_json:
        text = _unescaped(text)
    yield text
    if "&#" in text or "&quot;" in text:
        yield html.unescape(re.sub(r"&#(?:10|x0*a);", "&#13;", text, flags=re.IGNORECASE))


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    letters = {"n": "\r", "r": "\r", "t": "\t", "b": " ", "f": " "}

    def undone(match: re.Match) -> str:
        code = match[1]
        letter = chr(int(code[1:], 16)) if len(code) == 5 else letters.get(code, code)
        return "\r" if letter == "\n" else letter

    return re.sub(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})', undone, text)


def _is_picture(start: bytes) -> bool:
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"BM"))


def _in_picture(content: bytes, name: str) -> Iterator[str]:
    """What can be read in a picture but its pixels. Raises ScanError for compressed texts beyond all measure."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        yield from _views(content.replace(b"\0", b"").decode("latin-1"))
        return
    at, left = 8, UNPACKED_BYTES
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + length]
        at += 12 + length
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            keyword, _, rest = body.partition(b"\0")
            packed = rest[1:]
            if kind == b"iTXt":
                packed = rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" else b""
            yield from _views(_decoded(keyword + b": " + _unpacked(packed, left, name)))
            left -= min(left, 20 * len(packed))
            yield from _views(_decoded(_readable(body)))
        elif kind not in (b"IDAT", b"fdAT", b"PLTE"):
            yield from _views(_decoded(_readable(body)))
        if kind == b"IEND":
            break
    yield from _views(_decoded(content[at:]))


def _readable(body: bytes) -> bytes:
    """A chunk of a picture as text: a keyword and what follows it, "key: value"."""
    keyword, zero, rest = body.partition(b"\0")
    return keyword + b": " + rest if zero and rest.isascii() and b"\0" not in rest else body


def _unpacked(packed: bytes, most: int, name: str) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(packed, most + 1) if packed else b""
    except zlib.error:
        return b""
    if len(content) > most:
        raise ScanError(f"{name} has compressed texts of more than {UNPACKED_BYTES >> 20} MiB: save it without them")
    return content


def _in_parquet(path: Path) -> Iterator[Text]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ScanError(
            f"parquet can't be looked through without pyarrow: pip install 'vitrail[train]' ({error})"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            about = {k: v for k, v in (file.schema_arrow.metadata or {}).items()} | (file.metadata.metadata or {})
            for key, value in about.items():
                if key != b"ARROW:schema":  # columns once more, in base64
                    yield _unescaped(_decoded(key + b": " + value)), lambda _: "metadata"
            for name in file.schema_arrow.names:
                yield name, lambda _: "the name of a column"
            rows = 0
            for batch in file.iter_batches(batch_size=ROWS):
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    for leaf in _leaves(column):
                        yield _joined(leaf, name, rows, path.name)
                rows += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScanError(f"{path.name} can't be looked through ({reason}): build it again") from error


def _leaves(array, key: str = "") -> Iterator[list[tuple[int, str | bytes]]]:
    """Each string and binary column within a column, as [(row, value)]; those of structures as "name: value"."""
    from pyarrow import types

    kind = array.type
    if hasattr(array, "storage"):  # of an extension
        yield from _leaves(array.storage, key)
    elif types.is_dictionary(kind):
        yield from _leaves(array.dictionary_decode(), key)
    elif types.is_struct(kind):
        for index in range(kind.num_fields):
            yield from _leaves(array.field(index), kind.field(index).name)
    elif types.is_nested(kind):
        values = [(row, value) for row, value in enumerate(array.to_pylist()) if value]
        yield [(row, _unescaped(json.dumps(value, default=_as_text, ensure_ascii=False))) for row, value in values]
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        before = f"{key}: " if key else ""
        yield [(row, before + value) for row, value in enumerate(array.to_pylist()) if value]
    elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        yield [(row, value) for row, value in enumerate(array.to_pylist()) if value]


def _as_text(value: object) -> str:
    return "\r".join(_in_bytes(value, "a column")) if isinstance(value, bytes) else str(value)


def _in_bytes(content: bytes, name: str) -> Iterator[str]:
    yield from _in_picture(content, name) if _is_picture(content[:16]) else _views(_decoded(content))


def _joined(leaf: list, name: str, first: int, file: str) -> Text:
    """The values of a column as one text, and which row each part of it is of."""
    starts, rows, parts, length = [], [], [], 0
    for row, value in leaf:
        text = "\r".join(_in_bytes(value, f"{file}, row {first + row},")) if isinstance(value, bytes) else value
        starts.append(length)
        rows.append(first + row)
        parts.append(text)
        length += len(text) + 1
    joined = "\n".join(parts)
    return joined, lambda start: f"column {name}, row {rows[bisect.bisect_right(starts, start) - 1]}"
