"""The choices in the panel, kept in the scene: they are saved and loaded with it."""

from __future__ import annotations

from typing import Any

#: Name in the scene, widget, and the property that holds the choice.
CHOICES = (
    ("server", "serverRadioButton", "checked"),
    ("device", "deviceComboBox", "currentText"),
    ("overlap", "overlapLineEdit", "text"),
    ("tta", "ttaCheckBox", "checked"),
    ("structures", "structuresLineEdit", "text"),
    ("show3D", "show3DCheckBox", "checked"),
)
#: Role of a node, and the widget that selects it.
NODES = (("input", "inputSelector"), ("output", "outputSelector"))
#: Choices among what the engine lists; they are made once it has been asked.
LISTED = (("bundle", "bundleComboBox"), ("version", "versionComboBox"))


def save(ui: Any, node: Any) -> None:
    """Write the choices into a parameter node. Addresses, paths and the token belong to the computer."""
    for name, widget, attribute in CHOICES:
        node.SetParameter(name, str(getattr(getattr(ui, widget), attribute)))
    for name, widget in LISTED:
        if getattr(ui, widget).currentText:
            node.SetParameter(name, getattr(ui, widget).currentText)
    for role, widget in NODES:
        chosen = getattr(ui, widget).currentNode()
        node.SetNodeReferenceID(role, chosen.GetID() if chosen else None)


def restore(ui: Any, node: Any) -> None:
    """Restore the choices that a parameter node holds; all others stay as they are."""
    for name, widget, attribute in CHOICES:
        text = node.GetParameter(name)
        if text:
            setattr(getattr(ui, widget), attribute, text == "True" if attribute == "checked" else text)
    for role, widget in NODES:
        chosen = node.GetNodeReference(role)
        if chosen:
            getattr(ui, widget).setCurrentNode(chosen)


def restore_listed(ui: Any, node: Any, name: str) -> None:
    """Choose the saved bundle or version among those that the engine has listed."""
    combo = getattr(ui, dict(LISTED)[name])
    index = combo.findText(node.GetParameter(name) or "")
    if index >= 0:
        combo.setCurrentIndex(index)
