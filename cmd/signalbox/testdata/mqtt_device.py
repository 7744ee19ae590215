"""A device that speaks MQTT with Eclipse's Python client: telemetry, status, commands.

usage: mqtt_device.py tcp|websockets PORT NAME SECRET
It publishes one reading, answers each command with an ack and a result, says what it does,
and leaves when a line comes on standard input.
"""
import json
import sys

import paho.mqtt.client as mqtt

transport, port, name, secret = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
root = "signalbox/" + name + "/"


def say(*words):
    print(*words, flush=True)


def on_connect(client, userdata, flags, rc, *more):
    say("connected", int(rc) if not hasattr(rc, "value") else rc.value)
    client.subscribe(root + "command", 1)


def on_subscribe(client, userdata, mid, granted, *more):
    say("subscribed")
    client.publish(root + "status", "ready", 1, True)
    client.publish(root + "telemetry", '{"temp":21.50}', 1)


def on_publish(client, userdata, mid, *more):
    say("published")


def on_message(client, userdata, message):
    command = json.loads(message.payload)
    say("command", command["command"], command.get("value"))
    client.publish(root + "ack", json.dumps({"id": command["id"]}), 1)
    client.publish(root + "result", json.dumps({"id": command["id"], "ok": True, "value": 90}), 2)


options = {"client_id": name, "transport": transport}
if hasattr(mqtt, "CallbackAPIVersion"):
    options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
client = mqtt.Client(**options)
client.username_pw_set(name, secret)
client.will_set(root + "status", "gone", 1, True)
client.on_connect, client.on_subscribe, client.on_publish, client.on_message = on_connect, on_subscribe, on_publish, on_message
if transport == "websockets":
    client.ws_set_options(path="/mqtt")
client.connect("127.0.0.1", port, 15)
client.loop_start()  # its thread alone reads and writes the socket
sys.stdin.readline()
client.disconnect()
client.loop_stop()
say("left")
