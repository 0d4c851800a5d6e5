"""The topology on one page: every agent, table, timer and view of a worker. Run by `faust -A pipeline worker`."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

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
from streams.topics import EVENTS, USER_TAGS, Stream
from tables import store
from tables.fold import Fold
from tables.leftovers import remove_leftovers
from tables.profiles import RowCodec
from tables.registry import create_tables
from views.dashboard import create_dashboard
from views.internal import internal_only
from views.owners import Owners
from views.web import Views, create_event_views, create_tag_views, create_views, errors_as_json, with_request_id

GC_THRESHOLDS = (100_000, 50, 50)
"""A batch makes tens of thousands of tuples that no cycle holds; the default would look at them again and again."""

try:
    settings = load_settings()
    check_token(settings)
    app = create_app(settings, store=store.SCHEME)
except (SettingsError, NewerStateError) as error:
    sys.exit(str(error))

remove_leftovers(Path(app.conf.tabledir))
app.conf.web_application_options = {"middlewares": [with_request_id, errors_as_json, internal_only(settings.web)]}
metrics = WorkerMetrics()
partitions = settings.topics.partitions


def count(stream: Stream) -> CountingProtocol:
    """Have the events of a stream counted: its topic -> its two tables, dead-letters.v1."""
    tables = create_tables(app, stream, settings, fail=end_process)
    fold = Fold(Codec(stream), RowCodec(stream) if tables.rows is not None else None)
    protocol = CountingProtocol(tables, fold, settings, metrics=metrics, clock=SYSTEM_CLOCK)
    create_agent(app, source_topic(app, stream, partitions=partitions), protocol)
    create_timers(app, protocol)
    return protocol


def views_of(protocol: CountingProtocol) -> Views:
    """Return who answers from the tables of a stream, and who is asked for the partitions of others."""
    tables = protocol.tables
    return Views(tables, Owners(app, tables, partitions=partitions, web=settings.web), metrics)


tags = count(USER_TAGS)  # user-tags.v1 -> minute-blocks, user-profiles, dead-letters.v1
events = count(EVENTS)  # events.v1 -> event-blocks, event-timeline, dead-letters.v1
protocols = (tags, events)
create_eraser(app, protocols)
create_figures(app, protocols, create_watchdog(app, protocols))

# tables -> answers
tag_views, event_views = views_of(tags), views_of(events)
create_tag_views(app, tag_views)
create_event_views(app, event_views)
create_views(app, (tag_views, event_views))
create_dashboard(app, tag_views, settings)

gc.set_threshold(*GC_THRESHOLDS)
gc.freeze()
