// An ESP32 that speaks MQTT 3.1.1 with the topics of Signalbox: it reports readings, leaves a
// last will, acknowledges commands and says what became of them. Each packet fits into the 256
// bytes that the library reserves.
//
// The library publishes with QoS 0 alone: a reading that is lost on the way stays lost. Where
// none may be, use protocol version 2 (signalbox_v2), or a library that publishes with QoS 1.
//
// Libraries (Arduino Library Manager): «PubSubClient» by Nick O'Leary, 2.8 or newer, and
// «ArduinoJson» by Benoit Blanchon, 7 or newer. Board: any ESP32.

#include <ArduinoJson.h>
#include <PubSubClient.h>
#include <WiFi.h>
#include <esp_timer.h>

// ---- Fill in -------------------------------------------------------------------------
const char *WIFI_NAME = "my network";
const char *WIFI_PASSWORD = "its password";
const char *HUB_HOST = "192.168.1.10";  // the machine on which «signalbox serve» runs
const uint16_t HUB_PORT = 1883;
const char *DEVICE_NAME = "esp01";      // as in «signalbox device add esp01 --type box»
const char *DEVICE_SECRET = "…";        // what that command printed
const int LED_PIN = 2;                  // the LED that most boards carry
// --------------------------------------------------------------------------------------

const int64_t MEASURE_EVERY_MS = 2000;
const uint32_t RETRY_LEAST_MS = 1000;   // between attempts to connect, doubling up to
const uint32_t RETRY_MOST_MS = 30000;
const size_t IDS = 16;                  // commands remembered, to do none twice

WiFiClient network;
PubSubClient mqtt(network);
String base;                    // what all topics of the device begin with

String ids[IDS];                // of the latest commands, a ring
size_t nextId = 0;
int led = 0;                    // 0 to 255
int64_t lastMeasured = 0;
int64_t restartAt = 0;          // 0: not at all
int64_t retryAt = 0;
uint32_t retryMs = RETRY_LEAST_MS;

int64_t upMs() { return esp_timer_get_time() / 1000; }  // 64 bits: never starts again

// publishJson sends one object on a topic of the device.
bool publishJson(const char *topic, const JsonDocument &doc) {
  char text[192];
  size_t length = serializeJson(doc, text, sizeof(text));
  return length < sizeof(text) && mqtt.publish((base + topic).c_str(), (const uint8_t *)text, length);
}

// ---- Readings ------------------------------------------------------------------------

void measure() {
  JsonDocument doc;
  doc["status"] = "ready";  // shown as the device's status
  doc["led"] = led;
  doc["rssi"] = WiFi.RSSI();
  publishJson("telemetry", doc);
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
  ack["id"] = id;
  publishJson("ack", ack);
  if (known(id)) {
    return;  // sent again after a reconnect: it is done already
  }
  JsonDocument result;
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
  publishJson("result", result);
}

// onMessage hears commands, and on the topic error why the hub refused something.
void onMessage(char *topic, uint8_t *payload, unsigned int length) {
  // The library has one buffer for both ways: what is needed of a message must be copied, as
  // JsonDocument does, before anything is published.
  bool complaint = (base + "error") == topic;
  JsonDocument doc;
  if (deserializeJson(doc, payload, length)) {
    return;
  }
  if (complaint) {
    Serial.printf("the hub says %s: %s\n", doc["error"] | "", doc["message"] | "");
    return;
  }
  obey(doc);
}

// ---- The connection ------------------------------------------------------------------

// logIn connects, says that the device is there, and leaves a will that says that it is gone.
bool logIn() {
  String status = base + "status";
  if (!mqtt.connect(DEVICE_NAME, DEVICE_NAME, DEVICE_SECRET, status.c_str(), 1, true, "offline")) {
    // 4 and 5: the name or the secret is wrong; below 0: the hub was not reached.
    Serial.printf("no connection: %d\n", mqtt.state());
    return false;
  }
  // A device gets commands once it has subscribed to them, with QoS 1.
  return mqtt.publish(status.c_str(), "online", true) && mqtt.subscribe((base + "command").c_str(), 1) &&
         mqtt.subscribe((base + "error").c_str(), 0);
}

// stayConnected tries again after a while that doubles each time, half of it by chance, so that
// a fleet does not return at the same moment.
void stayConnected() {
  if (mqtt.connected() || upMs() < retryAt) {
    return;
  }
  if (logIn()) {
    retryMs = RETRY_LEAST_MS;
    return;
  }
  mqtt.disconnect();
  retryAt = upMs() + retryMs / 2 + random(retryMs / 2 + 1);
  retryMs = min(retryMs * 2, RETRY_MOST_MS);
}

void setup() {
  Serial.begin(115200);
  pinMode(LED_PIN, OUTPUT);
  WiFi.mode(WIFI_STA);
  WiFi.setAutoReconnect(true);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  randomSeed(esp_random());
  base = String("signalbox/") + DEVICE_NAME + "/";
  // With TLS, on the port of mqtt.tls.listen: make «network» a WiFiClientSecure and say
  // network.setCACert(HUB_CA), the certificate authority, PEM.
  mqtt.setServer(HUB_HOST, HUB_PORT);
  mqtt.setCallback(onMessage);
  mqtt.setKeepAlive(15);     // the hub misses the board after 1.5 times that
  mqtt.setSocketTimeout(5);  // how long connecting may block loop()
  // The library passes over messages that do not fit: with commands of long values, say
  // mqtt.setBufferSize(1024).
}

void loop() {
  if (restartAt != 0 && upMs() >= restartAt) {
    ESP.restart();
  }
  if (WiFi.status() != WL_CONNECTED) {
    delay(10);
    return;
  }
  stayConnected();
  mqtt.loop();  // hears commands, and keeps the connection alive
  if (mqtt.connected() && upMs() - lastMeasured >= MEASURE_EVERY_MS) {
    lastMeasured = upMs();
    measure();
  }
}
