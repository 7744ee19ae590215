"""Goes through the features of the broker with Eclipse Paho for Python 1.6.

Arguments: the address for MQTT, that for WebSocket, user, password, device, secret, the
version (4 or 5) and the transport (tcp or websockets). Prints a line for each feature and
ends with 1 at the first that fails.
"""

import queue
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE = 15
(TCP, WEB, USER, PASSWORD, DEVICE, SECRET, VERSION, TRANSPORT) = sys.argv[1:9]
V5 = VERSION == "5"
ROOT = "python/%s/%s" % (VERSION, TRANSPORT)
count = 0


class Client:
    """A client with a queue for each thing that may happen to it."""

    def __init__(self, name=None, will=None, user=USER, password=PASSWORD, last=False, clean=True, keepalive=30, **properties):
        global count
        count += 1
        self.name = "py%s%s%d" % (VERSION, TRANSPORT[0], count) if name is None else name
        options = {} if V5 else {"clean_session": clean and not last}
        self.c = mqtt.Client(self.name, protocol=mqtt.MQTTv5 if V5 else mqtt.MQTTv311, transport=TRANSPORT, **options)
        if TRANSPORT == "websockets":
            self.c.ws_set_options(path="/mqtt")
        self.c.username_pw_set(user, password)
        if will:
            self.c.will_set(*will)
        self.connected, self.gone, self.messages, self.granted = queue.Queue(), queue.Queue(), queue.Queue(), queue.Queue()
        self.c.on_connect = lambda c, u, flags, rc, *p: self.connected.put((int(getattr(rc, "value", rc)), flags["session present"], p))
        self.c.on_disconnect = lambda c, u, rc, *p: self.gone.put(rc)
        self.c.on_message = lambda c, u, m: self.messages.put(m)
        self.c.on_subscribe = lambda c, u, mid, codes, *p: self.granted.put(([int(getattr(x, "value", x)) for x in codes], p))
        host, port = (TCP if TRANSPORT == "tcp" else WEB).rsplit(":", 1)
        more = {}
        if V5:
            p = Properties(PacketTypes.CONNECT)
            if last:
                p.SessionExpiryInterval = 600
            for key, value in properties.items():
                setattr(p, key, value)
            more = {"clean_start": clean and not last, "properties": p}
        self.c.connect(host, int(port), keepalive, **more)
        self.c.loop_start()
        self.code, self.present, p = self.connected.get(timeout=PATIENCE)
        self.told = p[0] if p else None  # the properties of CONNACK

    def subscribe(self, topic, qos, identifier=None, **options):
        if V5:
            p = Properties(PacketTypes.SUBSCRIBE)
            if identifier:
                p.SubscriptionIdentifier = identifier
            self.c.subscribe(topic, options=SubscribeOptions(qos=qos, **options), properties=p)
        else:
            self.c.subscribe(topic, qos)
        codes, p = self.granted.get(timeout=PATIENCE)
        self.suback = p[0] if p else None  # its properties
        return codes

    def publish(self, topic, payload, qos=1, retain=False, properties=None):
        self.c.publish(topic, payload, qos, retain, **({"properties": properties} if properties else {})).wait_for_publish(PATIENCE)

    def take(self, topic, payload, qos):
        m = self.messages.get(timeout=PATIENCE)
        if isinstance(payload, str):
            payload = payload.encode()
        assert (m.topic, m.payload, m.qos) == (topic, payload, qos), (m.topic, m.payload[:80], m.qos)
        return m

    def leave(self):
        self.c.disconnect()
        self.gone.get(timeout=PATIENCE)
        self.c.loop_stop()

    def cut(self):
        """Ends the connection without DISCONNECT."""
        sock = self.c.socket()
        (sock if TRANSPORT == "tcp" else sock._socket).shutdown(socket.SHUT_RDWR)
        self.gone.get(timeout=PATIENCE)
        self.c.loop_stop()


def quality():
    a = Client()
    for qos in (0, 1, 2):
        topic = "%s/quality/%d" % (ROOT, qos)
        assert a.subscribe(topic, qos) == [qos]
        for sent in (0, 1, 2):
            a.publish(topic, "QoS %d" % sent, sent)
            a.take(topic, "QoS %d" % sent, min(qos, sent))
    a.leave()


def device():
    d = Client(user=DEVICE, password=SECRET)
    assert d.code == 0
    topic = "signalbox/%s/command" % DEVICE
    assert d.subscribe(topic, 1) == [1]
    assert d.subscribe("somebody/else/#", 1)[0] >= 0x80
    d.publish("signalbox/%s/telemetry" % DEVICE, '{"temp":21.5}', 1)
    d.leave()
    alone = Client(user="%s:%s" % (DEVICE, SECRET), password=None)  # as firmware for ThingsBoard
    assert alone.code == 0, alone.code
    alone.publish("signalbox/%s/telemetry" % DEVICE, '{"temp":22.5}', 1)
    alone.leave()


def refused():
    try:
        c = Client(password="sbx_wrong")
        assert c.code in (4, 5, 134, 135), c.code
        c.c.loop_stop()
    except queue.Empty:
        raise AssertionError("no CONNACK came")


def retained():
    topic = ROOT + "/kept"
    a = Client()
    a.publish(topic, "kept", 1, True)
    b = Client()
    b.subscribe(topic, 1)
    assert b.take(topic, "kept", 1).retain
    a.publish(topic, "", 1, True)
    b.take(topic, "", 1)
    a.leave()
    b.leave()


def will():
    topic = ROOT + "/will"
    watcher = Client()
    watcher.subscribe(topic, 1)
    Client(will=(topic, "gone", 1, False)).cut()
    watcher.take(topic, "gone", 1)
    watcher.leave()


def large():
    topic = ROOT + "/large"
    a = Client()
    a.subscribe(topic, 2)
    for size in (127, 128, 16383, 16384, 60000):
        for qos in (0, 1, 2):
            payload = bytes(i % 256 for i in range(size))
            a.publish(topic, payload, qos)
            a.take(topic, payload, qos)
    a.leave()


def offline():
    topic = ROOT + "/offline"
    a = Client(last=True)
    a.subscribe(topic, 2)
    a.leave()
    b = Client()
    for i in range(50):
        b.publish(topic, str(i), 1 + i % 2)
    back = Client(name=a.name, last=True)
    assert back.present
    got = {1: [], 2: []}  # Paho hands over QoS 2 at PUBREL, so each quality has its own order
    for i in range(50):
        m = back.messages.get(timeout=PATIENCE)
        got[m.qos].append(int(m.payload))
    assert got == {1: list(range(0, 50, 2)), 2: list(range(1, 50, 2))}, got
    back.leave()
    b.leave()
    Client(name=a.name).leave()


def properties():
    topic, answer = ROOT + "/request", ROOT + "/answer"
    a, b = Client(), Client()
    a.subscribe(answer, 1)
    b.subscribe(topic, 1)
    p = Properties(PacketTypes.PUBLISH)
    p.ResponseTopic, p.CorrelationData, p.ContentType, p.PayloadFormatIndicator = answer, b"\x00\xff", "text/plain", 1
    p.UserProperty = [("b", "2"), ("a", "1"), ("b", "3")]
    p.MessageExpiryInterval = 100
    a.publish(topic, "how much?", 1, False, p)
    m = b.take(topic, "how much?", 1)
    assert m.properties.UserProperty == [("b", "2"), ("a", "1"), ("b", "3")], m.properties.UserProperty
    assert m.properties.ContentType == "text/plain" and m.properties.PayloadFormatIndicator == 1
    assert m.properties.MessageExpiryInterval in (99, 100)
    q = Properties(PacketTypes.PUBLISH)
    q.CorrelationData = m.properties.CorrelationData
    b.publish(m.properties.ResponseTopic, "much", 1, False, q)
    assert a.take(answer, "much", 1).properties.CorrelationData == b"\x00\xff"
    a.leave()
    b.leave()


def options():
    topic = ROOT + "/options"
    a, b = Client(), Client()
    b.publish(topic, "kept", 1, True)
    a.subscribe(topic, 1, noLocal=True, retainAsPublished=True, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
    a.publish(topic, "mine", 1)
    b.publish(topic, "theirs", 1, True)
    assert a.take(topic, "theirs", 1).retain
    b.publish(topic, "", 1, True)
    a.leave()
    b.leave()


def shared():
    topic = ROOT + "/shared"
    members, a = [Client(), Client()], Client()
    for m in members:
        assert m.subscribe("$share/python/" + topic, 1) == [1]
    for i in range(20):
        a.publish(topic, str(i), 1)
    got, until = [], time.monotonic() + PATIENCE
    while len(got) < 20 and time.monotonic() < until:
        for m in members:
            try:
                got.append(int(m.messages.get(timeout=0.05).payload))
            except queue.Empty:
                pass
    assert sorted(got) == list(range(20)), got
    for c in members + [a]:
        c.leave()


def takeover():
    topic = ROOT + "/takeover"
    a = Client()
    a.c.reconnect_delay_set(600, 600)  # or it would take the session back
    b = Client(name=a.name)
    why = a.gone.get(timeout=PATIENCE)
    a.c.loop_stop()
    assert int(getattr(why, "value", why)) == 142 if V5 else why != 0, why
    b.subscribe(topic, 1)
    b.publish(topic, "mine now", 1)
    b.take(topic, "mine now", 1)
    b.leave()


def burst():
    topic = ROOT + "/burst"
    a, b = Client(), Client()
    b.subscribe(topic, 2)
    sent = [a.c.publish(topic, str(i), 1 + i % 2) for i in range(200)]
    for s in sent:
        s.wait_for_publish(PATIENCE)
    got = {1: [], 2: []}
    for i in range(200):
        m = b.messages.get(timeout=PATIENCE)
        got[m.qos].append(int(m.payload))
    assert got == {1: list(range(0, 200, 2)), 2: list(range(1, 200, 2))}, got
    a.leave()
    b.leave()


def aliases():
    topic = ROOT + "/aliases"
    a, b = Client(), Client()
    assert a.told.TopicAliasMaximum >= 2, a.told
    b.subscribe(topic + "/#", 1)
    p = [Properties(PacketTypes.PUBLISH) for i in range(2)]
    for i in range(2):
        p[i].TopicAlias = i + 1
        a.publish("%s/%d" % (topic, i), "named", 1, False, p[i])
        b.take("%s/%d" % (topic, i), "named", 1)
    for qos in (0, 1, 2):
        for i in range(2):
            a.publish("", "by alias", qos, False, p[i])
            b.take("%s/%d" % (topic, i), "by alias", min(qos, 1))
    a.publish(topic + "/new", "renamed", 1, False, p[0])
    b.take(topic + "/new", "renamed", 1)
    a.publish("", "by alias", 1, False, p[0])
    b.take(topic + "/new", "by alias", 1)
    a.leave()
    b.leave()


def identifiers():
    topic = ROOT + "/identifiers"
    a = Client()
    a.subscribe(topic + "/a", 1, identifier=7)
    a.subscribe(topic + "/b", 1, identifier=268435455)
    a.subscribe(topic + "/c", 1)
    for last, want in (("a", [7]), ("b", [268435455]), ("c", [])):
        a.publish("%s/%s" % (topic, last), last, 1)
        m = a.take("%s/%s" % (topic, last), last, 1)
        assert getattr(m.properties, "SubscriptionIdentifier", []) == want, m.properties
    a.subscribe(topic + "/+", 1, identifier=8)
    a.publish(topic + "/a", "both", 1)
    got = a.take(topic + "/a", "both", 1).properties.SubscriptionIdentifier
    if len(got) == 1:  # a message for each subscription
        got = got + a.take(topic + "/a", "both", 1).properties.SubscriptionIdentifier
    assert sorted(got) == [7, 8], got
    a.leave()


def assigned():
    a, b = Client(name=""), Client(name="")
    names = [c.told.AssignedClientIdentifier for c in (a, b)]
    assert all(names) and names[0] != names[1], names
    named = Client()
    assert not hasattr(named.told, "AssignedClientIdentifier"), named.told
    for c in (a, b, named):
        c.leave()


def keepalive():
    short, long = Client(keepalive=30), Client(keepalive=65535)
    assert not hasattr(short.told, "ServerKeepAlive"), short.told
    assert 0 < long.told.ServerKeepAlive < 65535, long.told
    short.leave()
    long.leave()


def receive_maximum():
    topic = ROOT + "/window"
    for most in (1, 3):
        a, b = Client(ReceiveMaximum=most), Client()
        a.subscribe(topic, 2)
        for qos in (1, 2):
            sent = [b.c.publish(topic, str(i), qos) for i in range(30)]
            for s in sent:
                s.wait_for_publish(PATIENCE)
            for i in range(30):
                a.take(topic, str(i), qos)
        a.leave()
        b.leave()


def packet_size():
    topic = ROOT + "/small"
    a, b = Client(MaximumPacketSize=200), Client()
    a.subscribe(topic, 2)
    for qos in (0, 1, 2):
        b.publish(topic, "x" * 300, qos)
        b.publish(topic, "fits", qos)
        a.take(topic, "fits", qos)
    assert b.told.MaximumPacketSize > 60000, b.told
    a.leave()
    b.leave()


def words():
    topic = ROOT + "/" + "/".join(["deep"] * 200)
    for wanted in (1, 0):
        a = Client(RequestProblemInformation=wanted)
        assert a.subscribe(topic, 1)[0] >= 0x80
        assert hasattr(a.suback, "ReasonString") == bool(wanted), a.suback
        a.leave()


features = [quality, device, refused, retained, will, large, offline, takeover, burst]
if V5:
    features += [properties, options, shared, aliases, identifiers, assigned, keepalive, receive_maximum, packet_size, words]
for feature in features:
    feature()
    print(feature.__name__, flush=True)
