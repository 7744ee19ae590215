package api

import (
	"signalbox"
	"signalbox/internal/auth"
	"signalbox/internal/forward"
	"signalbox/internal/replay"
)

// ReplayInto says what the hub plays a replay into by itself.
type ReplayInto struct {
	Forwarder string `json:"forwarder,omitempty" maxLength:"256" doc:"The name of a forwarder: its target gets the replay beside what happens."`
	Viewers   bool   `json:"viewers,omitempty" doc:"The original live viewers."`
}

// beginReplay makes a replay: one that waits for its listener, or one that the hub plays by itself.
func (s *server) beginReplay(who auth.Identity, o replay.Options, into *ReplayInto, unmarked bool) (replay.Status, error) {
	if into == nil {
		if unmarked {
			return replay.Status{}, signalbox.Errorf(signalbox.KindInvalid, "invalid_unmarked", "unmarked goes with into: whoever listens to the replay's stream gets the mark")
		}
		return s.Replays.Start(o)
	}
	if !who.Scope.Allows(signalbox.ScopeAdmin) {
		return replay.Status{}, signalbox.Errorf(signalbox.KindForbidden, "forbidden", "the credential %q has the scope %s; playing into a forwarder or to the viewers needs %s", who.Name, who.Scope, signalbox.ScopeAdmin)
	}
	sink, words, err := s.replaySink(into)
	if err != nil {
		return replay.Status{}, err
	}
	o.Into, o.Unmarked = words, unmarked
	return s.Replays.StartInto(o, sink)
}

// replaySink gives what into names, and words for it.
func (s *server) replaySink(into *ReplayInto) (sink replay.Sink, words string, err error) {
	switch {
	case into.Forwarder != "" && into.Viewers, into.Forwarder == "" && !into.Viewers:
		return nil, "", signalbox.Errorf(signalbox.KindInvalid, "invalid_into", "into names either a forwarder, as {\"forwarder\": NAME}, or the viewers, as {\"viewers\": true}")
	case into.Viewers && s.ReplayToViewers == nil:
		return nil, "", signalbox.Errorf(signalbox.KindConflict, "no_viewers", "this hub serves no original viewers; the setting compat.viewers.device switches them on")
	case into.Viewers:
		sink, err = s.ReplayToViewers()
		return sink, "viewers", err
	case s.Forwarders == nil:
		return nil, "", signalbox.Errorf(signalbox.KindNotFound, "forwarder_not_found", "this hub has no forwarders")
	}
	if sink, err = s.Forwarders.Sink(into.Forwarder); err != nil {
		spec := forward.Spec{}
		if status, missing := s.Forwarders.Get(into.Forwarder); missing == nil {
			spec = status.Spec
		}
		return nil, "", targetFault(&spec, err)
	}
	return sink, "forwarder " + into.Forwarder, nil
}
