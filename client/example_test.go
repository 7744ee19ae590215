package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"signalbox"
	"signalbox/client"
)

// A controller turns a servo, and knows afterwards what the device said about it.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	hub, err := client.New("http://hub.example:8080", client.WithToken("sbx_…"))
	if err != nil {
		fmt.Println("no hub:", err)
		return
	}
	c, err := hub.Send(ctx, "esp01", client.Send{Name: "servo1", Value: new("90"), Wait: 5 * time.Second})
	switch {
	case signalbox.CodeOf(err) == "device_offline":
		fmt.Println("esp01 is away")
	case err != nil:
		fmt.Println("the command was not taken:", err)
	case c.State == signalbox.CommandSucceeded:
		fmt.Println("done:", string(c.Result))
	default:
		fmt.Println("the device has not said yet:", c.State)
	}
}

// A report sums a day up by hours, and then walks through what all boxes said in it.
func ExampleHub_Buckets() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	hub, err := client.New("http://hub.example:8080", client.WithToken("sbx_…"))
	if err != nil {
		fmt.Println("no hub:", err)
		return
	}
	to := time.Now()
	from := to.Add(-24 * time.Hour)
	day, err := hub.Buckets(ctx, "esp01", client.BucketQuery{Fields: []string{"temp"}, N: 24, From: from, To: to})
	if err != nil {
		fmt.Println("no buckets:", err)
		return
	}
	for _, b := range day.Series[0].Buckets { // hours without a reading are not among them
		fmt.Println(b.Start, b.Count, *b.Min, *b.Avg, *b.Max)
	}
	for m, err := range hub.ScanTelemetry(ctx, client.ScanQuery{Types: []string{"box"}, From: from, To: to}) {
		if err != nil {
			fmt.Println("it was broken off:", err)
			return
		}
		fmt.Println(m.Time, m.Device, string(m.Object))
	}
}

// A controller listens to what the boxes report, and learns when it was too slow.
func ExampleHub_Stream() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hub, err := client.New("http://signalbox", client.WithUnixSocket("data/signalbox.sock"))
	if err != nil {
		fmt.Println("no hub:", err)
		return
	}
	events, err := hub.Stream(ctx, client.Watch{Types: []string{"box"}, Kinds: []string{"telemetry"}})
	if err != nil {
		fmt.Println("no stream:", err)
		return
	}
	for e, err := range events {
		switch {
		case errors.Is(err, context.Canceled):
			return
		case err != nil:
			fmt.Println("the stream ended:", err)
			return
		case e.Kind == "lagged":
			fmt.Println("too slow by", e.Missed)
		case e.Kind == "telemetry":
			fmt.Println(e.Device, string(e.Object))
		}
	}
}

// A controller follows all that happens, over restarts of the hub, and notes how far it is, so that
// it can go on there when it is started again itself.
func ExampleHub_Follow() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hub, err := client.New("http://signalbox", client.WithUnixSocket("data/signalbox.sock"))
	if err != nil {
		fmt.Println("no hub:", err)
		return
	}
	keep := func(cursor string) { fmt.Println("so far:", cursor) } // where it is found after a restart
	events, err := hub.Follow(ctx, client.Watch{After: "", Snapshot: true})
	if err != nil {
		fmt.Println("no stream:", err)
		return
	}
	for e, err := range events {
		switch {
		case err != nil:
			fmt.Println("the hub refuses:", err)
			return
		case e.Kind == "state":
			fmt.Println(e.State.Device, "is", e.State.Presence)
		case e.Kind == "lagged":
			fmt.Println("events are missing:", e.Reason, e.Missed)
			keep(e.Until)
		default:
			fmt.Println(e.Kind, e.Device, string(e.Object))
			keep(e.Cursor)
		}
	}
}
