"""Every event of the services listened to becomes a fact."""

from analytics import commands

PACKAGES = ("crm.customer.v1",)
EVERY = commands.take_in
