"""An operator's script for the original remote-control server, on the standard library alone.

It prints what the hub answers, byte for byte where it is not a page.
"""
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar

BASE = sys.argv[1]


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()), Stay)


def ask(path, **form):
    data = urllib.parse.urlencode(form).encode() if form else None
    try:
        answer = opener.open(BASE + path, data, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    body = answer.read()
    line = ["POST" if form else "GET", path, str(answer.status)]
    if answer.headers["Location"] is not None:
        line.append(answer.headers["Location"])
    print(*line, flush=True)
    if answer.headers.get_content_type() == "application/json":
        print(answer.headers["Content-Type"], body)
    for message in re.findall('role="status">([^<]*)<', body.decode()):
        print("  message:", message)
    return body.decode()


ask("/")
ask("/get_telemetry?device=esp01")
ask("/send_command", device_name="esp01", command="servo1", value="90")
ask("/logout")
ask("/login")
ask("/login", username="admin", password="wrong")
ask("/login")
ask("/login", username="nobody", password="the old one")
ask("/login")
ask("/login")
ask("/login", username="admin", password="the old one")
page = ask("/")
for word in ("esp01", "esp02", "работает", "admin"):
    print("  the page has", word, word in page)
ask("/get_telemetry?device=esp01")
ask("/get_telemetry?device=esp02")
ask("/get_telemetry?device=nobody")
ask("/get_telemetry")
ask("/send_command", device_name="esp01", command="servo1", value="90")
ask("/")
ask("/")
ask("/send_command", device_name="esp01", command="servo1", value="")
ask("/")
ask("/send_command", device_name="esp01", command="текст", value="двери «закрыты» 🚦 \"<&>\"\\\t\n")
ask("/send_command", device_name="esp02", command="servo1", value="90")
ask("/send_command", device_name="nobody", command="servo1", value="90")
ask("/send_command", device_name="", command="servo1")
ask("/send_command", device_name="esp01")
ask("/")
ask("/send_command", device_name="esp01", command="restart")
ask("/logout")
ask("/")
ask("/login")
