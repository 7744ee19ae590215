package cli

import (
	"fmt"
	"strings"
	"testing"

	"signalbox"
)

// TestSentCommands looks at commands that wait for their devices, and takes them back.
func TestSentCommands(t *testing.T) {
	s := newStation(t)
	for _, name := range []string{"esp01", "esp02"} {
		s.run("device", "add", name).want(t, ExitOK)
	}
	s.run("command", "list").want(t, ExitOK, "MADE", "STATE")
	s.run("command", "list", "--json").want(t, ExitOK, "[]")
	var sent []signalbox.Command
	for i := range 3 {
		r := s.run("send", "esp01", "servo1", fmt.Sprint(-i), "--ttl", "1h", "--key", fmt.Sprint("key", i), "--json").want(t, ExitOK)
		sent = append(sent, decode[signalbox.Command](t, r))
	}
	s.run("send", "esp02", "restart", "--ttl", "1h").want(t, ExitOK)

	list := decode[[]signalbox.Command](t, s.run("command", "list", "esp01", "--json").want(t, ExitOK))
	if len(list) != 3 || list[0].ID != sent[2].ID || list[2].ID != sent[0].ID {
		t.Errorf("the list is %+v, newest first it should be %+v", list, sent)
	}
	if all := s.run("command", "ls").want(t, ExitOK, "restart", "servo1", "queued"); strings.Count(all.out, "\n") != 5 {
		t.Errorf("of all devices there is\n%s", all.out)
	}
	if last := s.run("command", "list", "esp01", "--last", "1").want(t, ExitOK, sent[2].ID); strings.Contains(last.out, sent[1].ID) {
		t.Errorf("the last one is\n%s", last.out)
	}

	s.run("command", "show", sent[1].ID).want(t, ExitOK, "Device      esp01\n", "Command     servo1\n", "Value       -1\n", "State       queued\n", "Key         key1\n", "Waits until ")
	canceled := decode[signalbox.Command](t, s.run("command", "cancel", sent[1].ID, "--json").want(t, ExitOK))
	if canceled.ID != sent[1].ID || canceled.State != signalbox.CommandCanceled {
		t.Errorf("canceled is %+v", canceled)
	}
	s.run("command", "cancel", sent[2].ID).want(t, ExitOK, "esp01: servo1 -2 canceled", sent[2].ID)
	s.run("command", "cancel", sent[1].ID).want(t, ExitFailure)
	s.run("command", "show", sent[1].ID).want(t, ExitOK, "State       canceled\n", "Ended       ", "(after ")
	if shown := decode[signalbox.Command](t, s.run("command", "show", sent[0].ID, "--json").want(t, ExitOK)); shown.ID != sent[0].ID || *shown.Value != "0" {
		t.Errorf("shown is %+v", shown)
	}

	s.run("command", "show", "01K2Q4N0A8R7F5T3XJ9V6C1BWE").want(t, ExitNotFound, "01K2Q4N0A8R7F5T3XJ9V6C1BWE")
	s.run("command", "list", "nobody").want(t, ExitNotFound, "nobody")
	s.run("command", "list", "esp01", "--last", "0").want(t, ExitUsage, "1 to 100000")
	s.run("command", "show").want(t, ExitUsage, "show ID")
}
