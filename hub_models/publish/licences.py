"""Under which licence something may be given away that was made of parts under others."""

from collections.abc import Sequence

LICENSES = set(
    """afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
    etalab-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0
    lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
    openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib""".split()
)
# Licences that ask for the notice at most, the most demanding last: each may become part of something under the next.
NOTICE: Sequence[str] = (
    "cc0-1.0 unlicense wtfpl zlib isc mit bsd-2-clause bsd-3-clause bsd apache-2.0 odc-by "
    "cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0".split()
)
# Licences of models, with terms of their own.
OWN_TERMS = """openrail openrail++ creativeml-openrail-m bigscience-openrail-m bigcode-openrail-m gemma llama2 llama3
    llama3.1 llama3.2 llama3.3 llama4 deepfloyd-if-license apple-amlr apple-ascl""".split()
# Licences under which something made of parts has to be as a whole, and what the parts may be under.
WHOLE = {
    "cc-by-sa-4.0": {*NOTICE, "cc-by-sa-3.0"},
    "cc-by-sa-3.0": set(NOTICE) - {"cc-by-4.0"},
    "cc-by-nc-4.0": set(NOTICE),
    "cc-by-nc-sa-4.0": {*NOTICE, "cc-by-nc-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0"},
    "gpl-3.0": {name for name in NOTICE if not name.startswith("cc-by")} | {"lgpl-3.0", "mpl-2.0"},
    "agpl-3.0": {name for name in NOTICE if not name.startswith("cc-by")} | {"gpl-3.0", "lgpl-3.0", "mpl-2.0"},
    **{name: set(NOTICE) for name in OWN_TERMS},
}
AND = " AND "  # as in SPDX: all of these hold, and no one licence was found that covers them


class LicenseError(ValueError):
    """Why no licence can be stated for something, and how to settle it."""


def one_license(licenses: Sequence[str | None]) -> str:
    """The Hub licence id under which something made of parts under these licences may be given away.

    A licence may itself be several joined by " AND ". Raises LicenseError where one is unknown or none, or where two of
    them exclude each other.
    """
    settle = "read them, decide, and say so with --license ID (ids: https://hf.co/docs/hub/repositories-licenses)"
    parts = list(dict.fromkeys(part for name in licenses for part in (name or "").split(AND)))
    if not parts or "" in parts:
        raise LicenseError(f"no licence is stated for a part of it: {settle}")
    if unknown := [part for part in parts if part not in NOTICE and part not in WHOLE]:
        if len(parts) == 1 and parts[0] in LICENSES - {"unknown", "other"}:
            return parts[0]
        raise LicenseError(
            f"{' and '.join(parts)} are its parts' licences, and what {unknown[0]} allows isn't known: {settle}"
        )
    if whole := [part for part in parts if part in WHOLE]:
        for name in whole:
            if all(part == name or part in WHOLE[name] for part in parts):
                return name
        raise LicenseError(f"its parts' licences, {' and '.join(parts)}, exclude each other: {settle}")
    return max(parts, key=NOTICE.index)


def license_of(run: dict) -> str | None:
    """The licence of a run's weights: the one that was settled, else what its data's and its base model's allow.

    None where the run states none at all. Raises LicenseError.
    """
    if run.get("license_settled") or run.get("license") == "other":
        return run.get("license")
    parts = [run["license"]] if run.get("license") else []  # data that states none is taken for the publisher's own
    parts += [run["base_license"]] if "base_license" in run else []
    return one_license(parts) if parts else None
