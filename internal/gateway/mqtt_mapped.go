package gateway

import (
	"errors"
	"strings"

	"signalbox"
)

// A device with a connection of its own may hear its commands on mapped topics, as boards do
// whose firmware nobody changes: then they go out by the mapping's template, at most once and
// without answers. A subscription to the native topic comes first.

// hearsMapped reports whether the device has subscribed to a topic of its commands by a mapping.
func (c *mqttConn) hearsMapped() bool {
	if c.door.parts.Mapped == nil {
		return false
	}
	for _, filter := range c.door.parts.Mapped.CommandTopics(c.device.Name) {
		// + stands for what differs from command to command: any text of a level will do.
		if _, ok := c.broker.Granted(strings.ReplaceAll(filter, "+", "x")); ok {
			return true
		}
	}
	return false
}

// Speaks implements session.Speaker.
func (c *mqttConn) Speaks() signalbox.Protocol {
	if c.is(mqttByMapping) {
		return signalbox.ProtocolMapped
	}
	return signalbox.ProtocolMQTT
}

// Fits implements session.Chooser.
func (c *mqttConn) Fits(cmd *signalbox.Command) error {
	if !c.is(mqttByMapping) {
		return nil
	}
	_, _, _, _, err := c.door.parts.Mapped.Command(c.device.Name, cmd)
	return err
}

// errNotSubscribed: the device hears commands, but not on the topic of this one.
var errNotSubscribed = errors.New("the device has not subscribed to the topic of this command")

// deliverMapped hands over a command by the mapping's template. One that is to be retained is
// published instead: it is for whoever subscribes later, too.
func (c *mqttConn) deliverMapped(cmd *signalbox.Command) error {
	topic, payload, qos, retain, err := c.door.parts.Mapped.Command(c.device.Name, cmd)
	if err != nil {
		return err
	}
	granted, ok := c.broker.Granted(topic)
	switch {
	case !ok:
		return errNotSubscribed
	case retain:
		return c.door.publish(topic, payload, qos, true, cmd.ExpiresAt)
	}
	// Not through the broker: what waits in its queues would go out when the command is worth
	// nothing any more.
	return c.broker.Command(topic, payload, min(qos, granted, 1))
}
