// An ESP32 that speaks protocol version 1 of Signalbox, that of the original
// remote-control server: it logs in, reports its state every two seconds and carries out
// commands. Version 1 has no answers, so a reading that is lost stays lost; see
// signalbox_v2 for a board that buffers them.
//
// Libraries (Arduino Library Manager): «WebSockets» by Markus Sattler, 2.4 or newer, and
// «ArduinoJson» by Benoit Blanchon, 7 or newer. Board: any ESP32.

#include <ArduinoJson.h>
#include <WebSocketsClient.h>
#include <WiFi.h>

// ---- Fill in -------------------------------------------------------------------------
const char *WIFI_NAME = "my network";
const char *WIFI_PASSWORD = "its password";
const char *HUB_HOST = "192.168.1.10";  // the machine on which «signalbox serve» runs
const uint16_t HUB_PORT = 8765;
const char *DEVICE_NAME = "esp01";      // as in «signalbox device add esp01 --type box»
const char *DEVICE_SECRET = "…";        // what that command printed
const int LED_PIN = 2;                  // the LED that most boards carry
// --------------------------------------------------------------------------------------

const uint32_t REPORT_EVERY_MS = 2000;
const uint32_t RETRY_LEAST_MS = 1000;   // between attempts to connect, doubling up to
const uint32_t RETRY_MOST_MS = 30000;

WebSocketsClient ws;
bool connected = false;
uint32_t retryMs = RETRY_LEAST_MS;
uint32_t lastReport = 0;
uint32_t connectedAt = 0;
int led = 0;  // 0 to 255

// sendJson sends one object as one text frame.
bool sendJson(const JsonDocument &doc) {
  char text[512];
  size_t length = serializeJson(doc, text, sizeof(text));
  return length < sizeof(text) && ws.sendTXT(text, length);
}

void logIn() {
  JsonDocument doc;
  doc["type"] = "auth";
  doc["name"] = DEVICE_NAME;
  doc["password"] = DEVICE_SECRET;
  sendJson(doc);  // the hub says nothing when it is right
}

void report() {
  JsonDocument doc;
  doc["type"] = "telemetry";
  doc["status"] = "ready";  // shown as the device's status
  doc["led"] = led;
  doc["rssi"] = WiFi.RSSI();
  doc["uptime"] = millis() / 1000;
  sendJson(doc);
}

// obey carries out a command. The value is always a text, and absent where there is none.
void obey(const char *command, const char *value) {
  if (strcmp(command, "led") == 0 && value != nullptr) {
    led = constrain(atoi(value), 0, 255);
    analogWrite(LED_PIN, led);
    report();  // telemetry that shows the commanded value confirms the command
  } else if (strcmp(command, "restart") == 0) {
    ESP.restart();
  } else {
    Serial.printf("command %s is not known\n", command);
  }
}

void onText(const uint8_t *payload, size_t length) {
  JsonDocument doc;
  if (deserializeJson(doc, payload, length)) {
    return;  // no JSON: nothing for this board
  }
  if (doc["error"].is<const char *>()) {
    // auth_required or unauthorized; the hub closes, and it is tried again, ever later.
    Serial.printf("the hub refused: %s\n", doc["error"].as<const char *>());
  } else if (doc["command"].is<const char *>()) {
    obey(doc["command"], doc["value"].as<const char *>());
  }
}

void onEvent(WStype_t type, uint8_t *payload, size_t length) {
  switch (type) {
    case WStype_CONNECTED:
      connected = true;
      connectedAt = millis();
      logIn();
      break;
    case WStype_DISCONNECTED:
      // After a connection that held, soon again; else wait twice as long each time. Half
      // of the wait is by chance, so that a fleet does not return at the same moment.
      if (connected && millis() - connectedAt > RETRY_MOST_MS) {
        retryMs = RETRY_LEAST_MS;
      }
      connected = false;
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
  ws.onEvent(onEvent);
  ws.begin(HUB_HOST, HUB_PORT, "/");
  // With TLS, on the port of devices.tls.listen; HUB_CA is the certificate authority, PEM:
  // ws.beginSslWithCA(HUB_HOST, 8766, "/", HUB_CA);
  ws.enableHeartbeat(20000, 5000, 2);  // notices a hub that lost its power
}

void loop() {
  if (WiFi.status() != WL_CONNECTED) {
    delay(10);
    return;
  }
  ws.loop();
  if (connected && millis() - lastReport >= REPORT_EVERY_MS) {
    lastReport = millis();
    report();
  }
}
