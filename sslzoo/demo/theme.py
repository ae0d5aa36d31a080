"""The colours and shapes of the demo, light and dark; only the system's own fonts, so that no other host is asked."""

from __future__ import annotations

import gradio as gr


def theme() -> gr.themes.Base:
    """The theme that `assets/style.css` builds upon."""
    return gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        body_background_fill="#f6f7f9",
        body_background_fill_dark="#0e1116",
        block_background_fill="#ffffff",
        block_background_fill_dark="#161b22",
        block_border_width="1px",
        border_color_primary="#e3e6ea",
        border_color_primary_dark="#2a313b",
        # 4.5:1 or better on white (WCAG 2.2, 1.4.3)
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_600",
        color_accent="*primary_700",  # brighter in the dark: assets/style.css
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        block_shadow="none",
        block_shadow_dark="none",
    )
