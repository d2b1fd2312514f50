"""The journal by the name it had while searches alone kept one."""

from wenable.journal import Journal as Journal
from wenable.journal import JournalError as JournalError
