"""Command lines of `qalib benchmark` from before it had subcommands."""


def current_spelling(arguments: list[str]) -> list[str]:
    """Arguments of `qalib benchmark` from before it had subcommands, with the subcommand they stand for.

    >>> current_spelling(["--sweep", "density", "--values", "0.1"])
    ['sweep', 'density', '--values', '0.1']
    >>> current_spelling(["--pace", "--json"]), current_spelling(["--data", "dev.json"])
    (['pace', '--json'], ['evaluation', '--data', 'dev.json'])
    >>> current_spelling(["--batch", "16"]), current_spelling(["forward"]), current_spelling(["--help"])
    (['forward', '--batch', '16'], ['forward'], ['--help'])
    """
    if not arguments or arguments[0] == "--help" or not arguments[0].startswith("-"):
        return arguments
    words = [part for argument in arguments for part in (argument.split("=", 1) if "--" in argument else [argument])]
    if "--sweep" in words[:-1]:
        place = words.index("--sweep")
        return ["sweep", words[place + 1], *words[:place], *words[place + 2 :]]
    if "--pace" in words:
        return ["pace", *(word for word in words if word != "--pace")]
    return ["evaluation" if "--data" in words else "forward", *words]
