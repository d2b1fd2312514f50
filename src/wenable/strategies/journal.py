"""The journal by the name it had while searches alone kept one."""

from wenable.core.journal import Journal as Journal
from wenable.core.journal import JournalError as JournalError
