"""The apps by name. To add one: a file here with an :class:`App`, its functions and ``seed``, and a line below."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sdgym.envs.tools.api import App
from sdgym.envs.tools.apps import agenda, docs, mail, music, notes, pay, phone, shop, supervisor, tasks
from sdgym.envs.tools.builder import Builder
from sdgym.envs.tools.tables import Table

APPS: Mapping[str, App] = {
    app.name: app
    for app in (
        supervisor.supervisor,
        docs.docs,
        mail.mail,
        phone.phone,
        agenda.calendar,
        notes.notes,
        tasks.tasks,
        music.music,
        shop.shop,
        pay.pay,
    )
}
SEEDS: tuple[Callable[[Builder], None], ...] = tuple(m.seed for m in (supervisor, mail, phone, agenda, notes, tasks, music, shop, pay))
TABLES: tuple[Table, ...] = tuple(table for app in APPS.values() for table in app.tables)
