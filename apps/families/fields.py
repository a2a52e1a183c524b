"""Fields that several tabs of the page have."""

import gradio as gr

from apps.families.desk import Desk


def families_field(desk: Desk, **options) -> gr.CheckboxGroup:
    """The models by their families' names, all of them chosen."""
    choices = [(member.title, name) for name, member in desk.members.items()]
    if len({title for title, _ in choices}) < len(choices):
        choices = [(f"{member.title}, {member.variant}", name) for name, member in desk.members.items()]
    return gr.CheckboxGroup(choices, value=list(desk.members), label="Families", elem_classes="chips", **options)
