"""The topology on one page: every agent, table, timer and view of a worker. Run by `faust -A pipeline worker`."""

from __future__ import annotations

import gc
import sys

from agents.count import create_agent
from agents.erase_page import create_eraser
from agents.figures import create_figures
from agents.guard import end_process
from agents.protocol import CountingProtocol
from agents.timers import create_timers
from agents.watchdog import create_watchdog
from streams.app import create_app, source_topic
from streams.clock import SYSTEM_CLOCK
from streams.codecs import Codec
from streams.errors import NewerStateError, SettingsError
from streams.internal import check_token
from streams.metrics import WorkerMetrics
from streams.settings import load_settings
from streams.topics import USER_TAGS
from tables import store
from tables.fold import Fold
from tables.profiles import RowCodec
from tables.registry import create_tables
from views.dashboard import create_dashboard
from views.internal import internal_only
from views.owners import Owners
from views.web import Views, create_views, errors_as_json

GC_THRESHOLDS = (100_000, 50, 50)
"""A batch makes tens of thousands of tuples that no cycle holds; the default would look at them again and again."""

try:
    settings = load_settings()
    check_token(settings)
    app = create_app(settings, store=store.SCHEME)
except (SettingsError, NewerStateError) as error:
    sys.exit(str(error))

app.conf.web_application_options = {"middlewares": [errors_as_json, internal_only(settings.web)]}
metrics = WorkerMetrics()
partitions = settings.topics.partitions

# user-tags.v1 -> minute-blocks, user-profiles, dead-letters.v1
tags = source_topic(app, USER_TAGS, partitions=partitions)
tag_tables = create_tables(app, USER_TAGS, settings, fail=end_process)
tag_fold = Fold(Codec(USER_TAGS), RowCodec(USER_TAGS) if settings.worker.profiles else None)
tag_protocol = CountingProtocol(tag_tables, tag_fold, settings, metrics=metrics, clock=SYSTEM_CLOCK)
count_tags = create_agent(app, tags, tag_protocol)
create_timers(app, tag_protocol)
create_eraser(app, tag_protocol)
create_figures(app, tag_protocol, create_watchdog(app, tag_protocol))

# tables -> answers
tag_views = Views(tag_tables, Owners(app, tag_tables, partitions=partitions, web=settings.web), metrics)
create_views(app, tag_views)
create_dashboard(app, tag_views, settings)

gc.set_threshold(*GC_THRESHOLDS)
gc.freeze()
