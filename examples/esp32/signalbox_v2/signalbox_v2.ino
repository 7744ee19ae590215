// An ESP32 that speaks protocol version 2 of Signalbox: it numbers its readings and keeps
// each until the hub says that it is saved, so that none is lost while the network or the
// hub is away; it acknowledges commands and says what became of them.
//
// Libraries (Arduino Library Manager): «WebSockets» by Markus Sattler, 2.4 or newer, and
// «ArduinoJson» by Benoit Blanchon, 7 or newer. Board: any ESP32.

#include <ArduinoJson.h>
#include <WebSocketsClient.h>
#include <WiFi.h>
#include <esp_timer.h>

// ---- Fill in -------------------------------------------------------------------------
const char *WIFI_NAME = "my network";
const char *WIFI_PASSWORD = "its password";
const char *HUB_HOST = "192.168.1.10";  // the machine on which «signalbox serve» runs
const uint16_t HUB_PORT = 8765;
const char *DEVICE_NAME = "esp01";      // as in «signalbox device add esp01 --type box»
const char *DEVICE_SECRET = "…";        // what that command printed
const int LED_PIN = 2;                  // the LED that most boards carry
// --------------------------------------------------------------------------------------

const int64_t MEASURE_EVERY_MS = 2000;
const uint32_t RETRY_LEAST_MS = 1000;   // between attempts to connect, doubling up to
const uint32_t RETRY_MOST_MS = 30000;
const size_t KEPT = 300;                // readings in memory: ten minutes without a hub
const size_t SEND_AT_ONCE = 5;          // kept readings sent in one turn of loop()
const size_t IDS = 16;                  // commands remembered, to do none twice

// A Reading waits here until the hub has it on disk.
struct Reading {
  uint64_t seq;  // 1, 2, 3 … since power-up
  int64_t at;    // milliseconds since power-up
  int16_t rssi;
  uint8_t led;
};

WebSocketsClient ws;
bool online = false;            // logged in
uint32_t retryMs = RETRY_LEAST_MS;
char boot[17];                  // a random word for this power-up
int64_t clockOffset = 0;        // Unix time at power-up, in ms, as the hub told

Reading kept[KEPT];             // a ring
size_t oldest = 0, waiting = 0;
uint64_t lastSeq = 0;           // of the newest reading
uint64_t sentSeq = 0;           // up to here the present connection has carried them

String ids[IDS];                // of the latest commands, a ring
size_t nextId = 0;
int led = 0;                    // 0 to 255
int64_t lastMeasured = 0;
int64_t restartAt = 0;          // 0: not at all

int64_t upMs() { return esp_timer_get_time() / 1000; }  // 64 bits: never starts again

// ---- Readings ------------------------------------------------------------------------

void measure() {
  if (waiting == KEPT) {  // full: the oldest goes
    oldest = (oldest + 1) % KEPT;
    waiting--;
  }
  Reading &r = kept[(oldest + waiting) % KEPT];
  waiting++;
  r.seq = ++lastSeq;
  r.at = upMs();
  r.rssi = WiFi.RSSI();
  r.led = led;
}

// settle forgets what the hub has saved, or refused for good, up to seq.
void settle(uint64_t seq) {
  while (waiting > 0 && kept[oldest].seq <= seq) {
    oldest = (oldest + 1) % KEPT;
    waiting--;
  }
}

// sendJson sends one object as one text frame.
bool sendJson(const JsonDocument &doc) {
  char text[512];
  size_t length = serializeJson(doc, text, sizeof(text));
  return length < sizeof(text) && ws.sendTXT(text, length);
}

bool sendReading(const Reading &r) {
  JsonDocument doc;
  doc["type"] = "telemetry";
  doc["seq"] = r.seq;
  doc["ts"] = clockOffset + r.at;  // when it was measured, not when it is sent
  doc["status"] = "ready";         // shown as the device's status
  doc["led"] = r.led;
  doc["rssi"] = r.rssi;
  return sendJson(doc);
}

// sendKept sends what this connection has not carried yet, a few at a time.
void sendKept() {
  size_t sent = 0;
  for (size_t i = 0; i < waiting && sent < SEND_AT_ONCE; i++) {
    const Reading &r = kept[(oldest + i) % KEPT];
    if (r.seq <= sentSeq) {
      continue;
    }
    if (!sendReading(r)) {
      return;  // the connection is going; it stays in the ring
    }
    sentSeq = r.seq;
    sent++;
  }
}

// ---- Commands ------------------------------------------------------------------------

// known says whether a command was here before, and remembers it.
bool known(const char *id) {
  for (const String &seen : ids) {
    if (seen == id) {
      return true;
    }
  }
  ids[nextId] = id;
  nextId = (nextId + 1) % IDS;
  return false;
}

// obey carries out a command: first the ack, then the deed, then the result.
void obey(const JsonDocument &in) {
  const char *id = in["id"] | "";
  const char *command = in["command"] | "";
  const char *value = in["value"].as<const char *>();  // nullptr: none was sent
  JsonDocument ack;
  ack["type"] = "ack";
  ack["id"] = id;
  sendJson(ack);
  if (known(id)) {
    return;  // sent again after a reconnect: it is done already
  }
  JsonDocument result;
  result["type"] = "result";
  result["id"] = id;
  if (strcmp(command, "led") == 0 && value != nullptr) {
    led = constrain(atoi(value), 0, 255);
    analogWrite(LED_PIN, led);
    result["ok"] = true;
    result["value"] = led;
  } else if (strcmp(command, "restart") == 0) {
    restartAt = upMs() + 500;  // so that the result gets out
    result["ok"] = true;
  } else {
    result["ok"] = false;
    result["error"] = "this board knows led (0 to 255) and restart";
  }
  sendJson(result);
}

// ---- The connection ------------------------------------------------------------------

void logIn() {
  JsonDocument doc;
  doc["type"] = "auth";
  doc["v"] = 2;
  doc["name"] = DEVICE_NAME;
  doc["password"] = DEVICE_SECRET;
  doc["boot"] = boot;
  sendJson(doc);
}

void onText(const uint8_t *payload, size_t length) {
  JsonDocument doc;
  if (deserializeJson(doc, payload, length)) {
    return;
  }
  const char *type = doc["type"] | "";
  if (doc["error"].is<const char *>()) {
    // Before the login it means that the hub will close: it is tried again, ever later.
    // With a seq, that reading is refused for good and counts as settled.
    Serial.printf("the hub says %s: %s\n", doc["error"].as<const char *>(), doc["message"] | "");
  } else if (strcmp(type, "auth_ok") == 0) {
    clockOffset = doc["time"].as<int64_t>() - upMs();
    sentSeq = doc["saved"].as<uint64_t>();
    settle(sentSeq);  // what it has of this power-up; the rest is sent again
    retryMs = RETRY_LEAST_MS;
    online = true;
  } else if (strcmp(type, "saved") == 0) {
    settle(doc["seq"].as<uint64_t>());
  } else if (strcmp(type, "command") == 0) {
    obey(doc);
  }
}

void onEvent(WStype_t type, uint8_t *payload, size_t length) {
  switch (type) {
    case WStype_CONNECTED:
      logIn();
      break;
    case WStype_DISCONNECTED:
      // Wait twice as long each time, half of it by chance, so that a fleet does not
      // return at the same moment.
      online = false;
      ws.setReconnectInterval(retryMs / 2 + random(retryMs / 2 + 1));
      retryMs = min(retryMs * 2, RETRY_MOST_MS);
      break;
    case WStype_TEXT:
      onText(payload, length);
      break;
    default:
      break;
  }
}

void setup() {
  Serial.begin(115200);
  pinMode(LED_PIN, OUTPUT);
  WiFi.mode(WIFI_STA);
  WiFi.setAutoReconnect(true);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  randomSeed(esp_random());
  snprintf(boot, sizeof(boot), "%08x%08x", (unsigned)esp_random(), (unsigned)esp_random());
  ws.onEvent(onEvent);
  ws.begin(HUB_HOST, HUB_PORT, "/");
  // With TLS, on the port of devices.tls.listen; HUB_CA is the certificate authority, PEM:
  // ws.beginSslWithCA(HUB_HOST, 8766, "/", HUB_CA);
  ws.enableHeartbeat(20000, 5000, 2);  // notices a hub that lost its power
}

void loop() {
  if (restartAt != 0 && upMs() >= restartAt) {
    ESP.restart();
  }
  if (upMs() - lastMeasured >= MEASURE_EVERY_MS) {
    lastMeasured = upMs();
    measure();  // whether the hub is there or not
  }
  if (WiFi.status() != WL_CONNECTED) {
    delay(10);
    return;
  }
  ws.loop();
  if (online) {
    sendKept();
  }
}
