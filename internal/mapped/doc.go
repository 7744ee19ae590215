// Package mapped turns messages of any MQTT topic into telemetry, presence and commands of
// devices, as the configuration says: for boards whose firmware nobody changes. Messages
// come from the hub's own broker or from another one that the hub has joined.
//
// # Mappings
//
// A mapping has a topic filter. What its wildcards stand for is {1}, {2}… in the device's
// name and in the field's: sensors/+/climate with device {1}. Formats:
//
//	json      a JSON object: the telemetry as it is; or, with a field, any JSON value under it
//	number    a decimal number with an optional unit behind it, «25.8 °C»: the number, as it
//	          is spelled, under the field
//	text      UTF-8 text under the field
//	value     a number as JSON spells it, true, false, or else text, under the field
//	presence  words for online, and words for offline
//	none      nothing is kept: the device may publish there, that is all
//
// A number has no decimal comma, for 1,234 may be either; what is not as the format says is
// dropped, counted, and told once a minute a mapping in the hub's log. An empty payload, which
// clears a retained message (5.0, 3.3.1.3), is none of the formats.
//
// Of several mappings that match a topic the first in the list takes its messages. A filter with
// a leading wildcard takes neither topics that begin with $ (5.0, 4.7.2) nor the native tree
// signalbox/…. Presets are lists of mappings for firmware that is widely used; one of them,
// ThingsBoard's, is a Dialect: there the topic does not say which device it is, so a device
// speaks it on a connection of its own.
//
// # Devices without a connection
//
// The device of a mapping has no connection that the hub could see end. It is online from its
// first message on until it has been silent for Mapping.Silence, or a presence mapping says
// that it is away. Meanwhile a session stands for it (signalbox.ProtocolMapped), by which commands
// find it: Deliver publishes them by the mapping's template, through the broker that its latest
// message came from. Of a device that came by several mappings the latest with a template
// counts; without any it takes no commands (Listening), and one that the template has no words
// for is refused before it is recorded (Fits). Such commands are sent at most once and never
// answered. If the device has a connection of its own, by WebSocket or MQTT, its mapped messages
// are part of that and no session is made; if it has subscribed there to a topic of its commands
// (CommandTopics, Hears) and to no native one, the gateway publishes them as Command says.
//
// Retained messages of the past (Taking.Retained) make nobody online, but for a presence word,
// and are stored only where a device has no telemetry at all. After a start of the hub all devices
// are offline until their first message.
//
// A device that a mapping names without wildcards is made at the start if it is missing, with a
// secret that nobody knows. Devices that wildcards name must exist, unless Mapping.Register is on:
// then an unseen one is made pending (quarantined): known, disabled, its messages counted and
// dropped, until a person approves it. There are at most Config.MaxPending such; messages of
// further ones are dropped and counted. Which they are is written down by Run, one after the
// other, from a queue of 256.
//
// # The native tree of another broker
//
// With Config.Native the messages of signalbox/<device>/telemetry, status, ack and result are the
// native protocol of devices that are connected to that broker: telemetry is a JSON object with
// the reserved keys of protocol version 2, or a bare number; status, a retained word and the
// device's will, is online or offline; ack and result go to the command road. It is as with
// mappings otherwise, in the same places: one session stands for a device, which of these ways it
// came by. But that session answers (signalbox.ProtocolMQTT): commands go to
// signalbox/<device>/command in the native protocol, with quality of service 1, from the device's
// first native message on whatever mappings it comes by too, and again under the same ID when it
// is online again without having acknowledged. While a device's status is online it may be
// silent; after Afresh, silence counts until the status comes again. An answer makes nobody
// online. A seq is compared where the device marks its power-up (boot) and the order is kept
// (Taking.Unordered): then a message that comes again is not stored again, be it after a restart.
// The hub's own broker has its own hand for that tree, in package gateway.
//
// # Contract
//
// Take may be called from any goroutine and never blocks, nor does it call its Link; the order of
// one device's messages is that of the calls. Telemetry goes the road of package ingest: log full
// gives Later, as does a Taking.Budget that is spent, and nothing is dropped. Native messages come without Taking.Also. Matches, Allowed and Hears may be called from any
// goroutine too; the former two do not allocate, and Take does not in the long run. New, Prepare,
// then Run, which returns when its context ends, with no goroutine left behind.
//
// Memory: about 300 bytes for each device that mapped messages came from, given back some time
// after the device was removed.
package mapped
