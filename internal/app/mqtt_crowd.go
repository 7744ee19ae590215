package app

import (
	"fmt"
	"strconv"

	"signalbox"
	"signalbox/internal/api"
	"signalbox/internal/broker"
)

// mqttOwner says in words whose sessions of the broker those of an owner are.
func (a *App) mqttOwner(owner string) string {
	if owner == "" {
		return "nobody in particular"
	}
	id, err := strconv.ParseInt(owner[1:], 10, 64)
	switch {
	case owner == broker.HubOwner:
		return "the hub"
	case owner[0] == 'a':
		return "clients without credentials at " + owner[1:]
	case err != nil:
	case owner[0] == 'd':
		if d := a.devices.Get(signalbox.DeviceID(id)); d != nil {
			return "device " + d.Name
		}
	case owner[0] == 't':
		for _, t := range a.people.ListTokens() {
			if t.ID == id {
				return "token " + t.Name
			}
		}
	}
	return owner
}

// queueCheck is for /readyz: whether messages are dropped because too much waits for subscribers
// that do not come. The hub does the rest of its work.
func (a *App) queueCheck() api.Check {
	check := api.Check{Name: "mqtt queues", OK: true, Message: "what waits for MQTT clients is within its limits"}
	c, crowded := a.mqtt.broker.Crowded()
	if !crowded {
		return check
	}
	owner, size := a.mqttOwner(c.Owner), formatSize(int(c.Limit))
	limit := "mqtt.limits.queues_memory"
	if c.Disk {
		limit = "mqtt.limits.queues_bytes"
	}
	if c.All {
		check.Message = fmt.Sprintf("degraded: %s wait for MQTT clients, as much as may (%s), and further messages are dropped", size, limit)
		check.Detail = fmt.Sprintf("the most is for %s; have its clients come, remove them, or let more wait", owner)
	} else {
		check.Message = fmt.Sprintf("degraded: %s wait for clients of one owner, as much as may (a quarter of %s), and further messages are dropped for them", size, limit)
		check.Detail = fmt.Sprintf("they are of %s; have them come, or remove what is not needed", owner)
	}
	return check
}
