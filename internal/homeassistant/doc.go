// Package homeassistant shows the hub's devices in Home Assistant: it publishes MQTT discovery
// (https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery) for every field that a
// device reports, whatever protocol the device speaks.
//
// A field becomes a sensor, or a binary_sensor if it is true or false, at
// <prefix>/<component>/signalbox_<device>/<field>/config, retained. Its state topic is the native
// signalbox/<device>/telemetry; whether the device is there is told at signalbox/<device>/presence, online
// or offline, which this package publishes, retained. Config.Entities says more of fields by
// their names: unit and class, or that the field can be commanded (switch, number, button,
// text); Home Assistant then publishes to signalbox/<device>/command, for which its user
// needs a token with scope command.
//
// Contract. It follows the bus from a queue of its own and delays nobody. What it missed of
// telemetry it finds with the next message of the device; after missed entries the presence
// of all devices is published again. It publishes nothing that it has published before in this
// process, and after a start everything once. Discovery of a removed device is withdrawn
// within a minute. At most Config.MaxFields fields of a device are shown.
package homeassistant
