"""A mail server for tests: python smtp_server.py PORT [CERTIFICATE KEY USER PASSWORD]

Prints "ready", then each mail as a line of JSON. With a certificate it insists on STARTTLS and on a login. nobody@ has no mailbox;
a mail to slow-to-take@ is taken, and to slow-to-say@ confirmed, after two seconds.
"""

import asyncio
import json
import ssl
import sys
from email import message_from_bytes
from email.policy import default

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult


class Mailbox:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = message_from_bytes(envelope.content, policy=default)
        if envelope.rcpt_tos[0].startswith("slow-to-take@"):
            await asyncio.sleep(2)
        print(json.dumps({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "subject": mail["subject"] or "",
            "message_id": mail["message-id"] or "",
            "body": mail.get_body().get_content(),
            "encrypted": session.ssl is not None,
            "login": session.auth_data,
        }), flush=True)
        if envelope.rcpt_tos[0].startswith("slow-to-say@"):
            await asyncio.sleep(2)
        return "250 taken"


port = int(sys.argv[1])
options = {}
if len(sys.argv) > 2:
    certificate, key, user, password = sys.argv[2:6]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    def log_in(server, session, envelope, mechanism, data):
        right = data.login == user.encode() and data.password == password.encode()
        return AuthResult(success=right, handled=right, auth_data=user if right else None)

    options = dict(tls_context=tls, require_starttls=True, auth_required=True, authenticator=log_in)


class Server(Controller):
    def factory(self):
        return SMTP(self.handler, **options)


Server(Mailbox(), hostname="127.0.0.1", port=port).start()
print("ready", flush=True)
sys.stdin.read()
