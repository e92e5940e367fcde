"""`python -m claude_pipeline` is `claude-pipeline`, of the interpreter that it is called with."""

from claude_pipeline.cli import main

if __name__ == "__main__":
    main(prog_name="claude-pipeline")
