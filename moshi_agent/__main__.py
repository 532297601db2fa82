"""`python -m moshi_agent`: the same as the `moshi-agent` command."""

from moshi_agent.cli import main

if __name__ == "__main__":
    main(prog_name="moshi-agent")
