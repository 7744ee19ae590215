package client_test

import (
	"slices"
	"testing"

	"signalbox"
	"signalbox/client"
)

func TestForwarders(t *testing.T) {
	h, _ := newHub(t)
	ctx := t.Context()
	_, err := h.AddForwarder(ctx, client.ForwarderSpec{Name: "in", To: "tcp://127.0.0.1:9"})
	wantCode(t, err, signalbox.KindForbidden, "target_not_allowed")
	made, err := h.AddForwarder(ctx, client.ForwarderSpec{
		Name: "site.1", To: "https://example.org/in?key=1234", Types: []string{"box"}, Queue: &client.ForwarderQueue{MaxAge: "2d"}, Timeout: "5s", Secret: "the-key", Paused: true,
	})
	must(t, err)
	if made.To != "https://example.org/in?key=***" || made.Secret != "" || !slices.Equal(made.Secrets, []string{"secret"}) || made.Queue.MaxAge != "2d" || made.Timeout != "5s" || made.FromFile || made.CreatedBy != "local" {
		t.Errorf("made %+v", made)
	}
	_, err = h.AddForwarder(ctx, client.ForwarderSpec{Name: "site.1", To: "tcp://example.org:9"})
	wantCode(t, err, signalbox.KindConflict, "name_taken")
	changed, err := h.ChangeForwarder(ctx, "site.1", map[string]any{"types": nil, "parallel": 4, "secret": nil})
	must(t, err)
	if len(changed.Types) != 0 || changed.Parallel != 4 || len(changed.Secrets) != 0 {
		t.Errorf("changed %+v", changed)
	}
	resumed, err := h.ResumeForwarder(ctx, "site.1")
	must(t, err)
	paused, err := h.PauseForwarder(ctx, "site.1")
	must(t, err)
	list, err := h.Forwarders(ctx)
	must(t, err)
	if resumed.Paused || !paused.Paused || len(list) != 1 || list[0].Name != "site.1" {
		t.Errorf("resumed %+v, paused %+v, listed %+v", resumed, paused, list)
	}
	page, err := h.DeadLetters(ctx, "site.1", 10, "")
	must(t, err)
	for l, err := range h.AllDeadLetters(ctx, "site.1", 0) {
		t.Errorf("a dead letter %+v, %v", l, err)
	}
	sent, err := h.ResendDeadLetters(ctx, "site.1")
	must(t, err)
	dropped, err := h.DropDeadLetters(ctx, "site.1", 1, 2)
	must(t, err)
	if len(page.Items) != 0 || sent != 0 || dropped != 0 {
		t.Errorf("of no dead letters %d are listed, %d sent again, %d dropped", len(page.Items), sent, dropped)
	}
	must(t, h.RemoveForwarder(ctx, "site.1"))
	_, err = h.Forwarder(ctx, "site.1")
	wantCode(t, err, signalbox.KindNotFound, "forwarder_not_found")
	_, err = h.StartReplay(ctx, client.ReplayQuery{IntoForwarder: "site.1", Unmarked: true})
	wantCode(t, err, signalbox.KindNotFound, "forwarder_not_found")
	_, err = h.StartReplay(ctx, client.ReplayQuery{IntoViewers: true})
	wantCode(t, err, signalbox.KindConflict, "viewers_off")
}
