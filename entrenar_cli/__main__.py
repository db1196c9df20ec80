"""``python -m entrenar_cli``: the same as the installed command."""

from entrenar_cli.main import run

if __name__ == "__main__":
    run()
