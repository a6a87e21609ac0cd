"""Credentials of clouds for obstore, from where s3fs, gcsfs and adlfs would find them.

A provider is called in a thread of obstore's, when it has no credentials or these soon end, and may then ask the network; it raises
ConnectionError where asking again may help. Imports nothing of this package.
"""

from __future__ import annotations

import datetime
import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

_FRESH_S = 300  # obstore asks anew for what ends sooner

Provider = Callable[[], dict[str, Any]]


class Unable(Exception):
    """What obstore does not take of a server or of credentials, and fsspec may."""


def has(module: str) -> bool:
    """Tell whether a module could be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False


def nobody() -> dict[str, Any]:
    """Give what nothing is signed with; a provider all the same, so that obstore looks for no other."""
    return {"token": "", "expires_at": None}


def always(**credential: Any) -> Provider:
    """Return what gives this one, which never ends."""
    return lambda: {**credential, "expires_at": None}


def of_botocore() -> Provider | None:
    """Return what gives the credentials that s3fs would find, in files, by a role, or from the machine; None where there are none."""
    session = _session()
    credentials = session.get_credentials() if session else None
    if credentials is None:
        return None

    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()  # and fresh
        soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=_FRESH_S)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": soon,
        }

    return provide


def configured(name: str) -> Any:
    """Return a setting of botocore's; None where there is none."""
    session = _session()
    return session.get_config_variable(name) if session else None


def _session() -> Any:
    if not has("botocore"):
        return None
    import botocore.session

    return botocore.session.Session()


def of_google(token: Any, access: str) -> Provider:
    """Return what gives the credentials that gcsfs would find, but for those that it keeps itself. Raises Unable."""
    from google.auth import exceptions
    from google.auth.transport import mtls
    from google.auth.transport.requests import Request

    if getattr(mtls, "should_use_client_cert", bool)():
        raise Unable("a client certificate is configured")
    try:
        credentials = _credentials_of(token, f"https://www.googleapis.com/auth/devstorage.{access}")
    except (exceptions.GoogleAuthError, OSError, ValueError, KeyError, TypeError) as error:
        raise Unable(str(error)) from error  # gcsfs tries others, or says what is wrong

    def provide() -> dict[str, Any]:
        now = datetime.datetime.now(datetime.timezone.utc)
        soon = now + datetime.timedelta(seconds=_FRESH_S)
        if not credentials.valid or (_expiry(credentials) or soon) < soon:
            try:
                credentials.refresh(Request())
            except exceptions.TransportError as error:
                raise ConnectionError(str(error)) from error
        return {"token": credentials.token, "expires_at": _expiry(credentials)}

    return provide


def _credentials_of(token: Any, scope: str) -> Any:
    import json

    import google.auth
    from google.auth import compute_engine, credentials
    from google.auth.transport.requests import Request
    from google.oauth2 import service_account
    from google.oauth2.credentials import Credentials

    if token in (None, "google_default"):
        return google.auth.default(scopes=[scope], request=Request())[0]
    if token == "cloud":
        return compute_engine.Credentials()
    if isinstance(token, credentials.Credentials):
        return token
    if isinstance(token, str):
        with open(token, encoding="utf-8") as file:
            token = json.load(file)
    if "private_key" in token:
        return service_account.Credentials.from_service_account_info(token, scopes=[scope])
    names = ("refresh_token", "client_id", "client_secret")
    return Credentials(None, token_uri="https://oauth2.googleapis.com/token", **{name: token[name] for name in names})


def _expiry(credentials: Any) -> datetime.datetime | None:
    expiry: datetime.datetime | None = credentials.expiry  # UTC, and does not say so
    return expiry and expiry.replace(tzinfo=datetime.timezone.utc)


def of_azure(principal: Mapping[str, str] | None) -> Provider:
    """Return what gives the tokens of a service principal, or of whom azure.identity finds."""

    @functools.cache
    def credential() -> Any:
        from azure import identity

        return identity.ClientSecretCredential(**principal) if principal else identity.DefaultAzureCredential()

    def provide() -> dict[str, Any]:
        from azure.core.exceptions import ServiceRequestError, ServiceResponseError

        try:
            token = credential().get_token("https://storage.azure.com/.default")
        except (ServiceRequestError, ServiceResponseError) as error:
            raise ConnectionError(str(error)) from error
        return {
            "token": token.token,
            "expires_at": datetime.datetime.fromtimestamp(token.expires_on, datetime.timezone.utc),
        }

    return provide
