"""`launch doctor`: checks this machine; each finding with its remedy."""

from __future__ import annotations

import click


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="One doctor/1 document.")
def doctor_command(as_json: bool) -> int:
    """Check this machine; each finding with its remedy. Exit 1 where something would keep a job from running."""
    import os

    from launcher.checkup import checkup
    from launcher.console import print_document
    from launcher.options import load_settings

    findings = checkup(os.environ, load_settings({}))
    if as_json:
        print_document({"schema": "doctor/1", "findings": [finding.model_dump() for finding in findings]})
    else:
        for finding in findings:
            print(f"{finding.mark}  {finding.name:<12} {finding.found}")
            if finding.remedy:
                print(f"{'':<{len(finding.mark) + 15}}-> {finding.remedy}")
    return 1 if any(finding.level == "broken" for finding in findings) else 0
