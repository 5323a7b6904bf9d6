"""A model card: what a run is, made from the run."""

from pathlib import Path

from promptkit.registry import installed
from promptkit.report.answers import by_domain, read_answers
from promptkit.runs.checkpoint import read_metadata
from promptkit.runs.opening import run_config

MOST_CLASSES = 40


def model_card(run: Path, repository: str) -> str:
    """In Markdown, with the hub's header. The licence is left to the person: nobody else can know it."""
    metadata, config = read_metadata(run), run_config(run)
    recipe = installed().get("recipe", metadata.recipe)
    name = repository.partition("/")[2]
    learned = f"{metadata.recipe}: {recipe.summary}" + (f" ({recipe.paper})" if recipe.paper else "")
    classes = ", ".join(metadata.classnames[:MOST_CLASSES])
    more = len(metadata.classnames) - MOST_CLASSES
    shots = f"{config.data.shots} pictures per class" if config.data.shots else "all pictures"
    lines = [
        "---",
        "library_name: promptkit",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, prompt-learning, promptkit]",
        "# license: say under which others may use it",
        "---",
        "",
        f"# {name}",
        "",
        f"A learner of promptkit (the package clip-promptkit). {learned}.",
        "",
        f"- **Backbone**: {metadata.backbone}, which is frozen and not in here (weights `{metadata.fingerprint[:16]}`)",
        f"- **Trained on**: {shots}, {metadata.epochs} epochs, seed {config.train.seed} (data `{metadata.data[:16]}`)",
        f"- **Classes** ({len(metadata.classnames)}): {classes}{f', and {more} more' if more > 0 else ''}",
        f"- **Made with**: {', '.join(f'{name} {version}' for name, version in metadata.packages.items())}",
        "",
        *_figures(run),
        "## Use it",
        "",
        "```console",
        f"$ promptkit predict hf-hub:{repository} pictures/",
        f"$ promptkit eval hf-hub:{repository} --data pictures/",
        "```",
        "",
        "```python",
        "import promptkit",
        "",
        f'classifier = promptkit.load("hf-hub:{repository}")',
        'classifier("picture.jpg")  # [{"label": ..., "score": ...}, ...]',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _figures(run: Path) -> list[str]:
    """The accuracies of the record that was kept last, where there is one."""
    answers = read_answers({run.name: run})
    if not answers:
        return []
    about = answers[0].about
    rows = [
        f"| {domain} | {100 * one.share:.1f} | {100 * one.low:.1f} to {100 * one.high:.1f} | {one.n} |"
        for domain, one in by_domain(answers[0]).items()
    ]
    return [
        f"## Figures: {about.dataset}, {about.split}, classes {about.classes}",
        "",
        "| domain | accuracy, % | 95 % interval over pictures | pictures |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
    ]
