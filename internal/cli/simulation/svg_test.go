package simulation

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"lighter/scheduler/simulate"
)

// drawnOf plays a graph on a fleet and returns its picture, which must be XML, and the classes and titles
// of its bars.
func drawnOf(t *testing.T, g *simulate.Graph, machines []simulate.Machine) (picture string, classes map[string]int, titles []string) {
	t.Helper()
	p := &play{work: &work{graph: g}, fleets: []*fleet{{"<all> & \x1b", machines}}, policies: []simulate.Policy{simulate.Lighter}, runs: 1, knows: knowsWork}
	list, err := p.all(t.Context(), func(int, int, string) {})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := writeSVG(&b, p, list); err != nil {
		t.Fatal(err)
	}
	classes = make(map[string]int)
	for d, inTitle := xml.NewDecoder(strings.NewReader(b.String())), false; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return b.String(), classes, titles
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		switch token := token.(type) {
		case xml.StartElement:
			inTitle = token.Name.Local == "title"
			for _, a := range token.Attr {
				if a.Name.Local == "class" && token.Name.Local == "rect" {
					classes[a.Value]++
				}
			}
		case xml.CharData:
			if inTitle {
				titles = append(titles, string(token))
			}
			inTitle = false
		}
	}
}

func TestPicture(t *testing.T) {
	g := &simulate.Graph{}
	g.Add(simulate.Node{Name: "<script>alert(1)</script>\x1b\x00\xff", System: "x86_64-linux", Duration: time.Minute, Output: 50e6})
	g.Add(simulate.Node{Name: "second", System: "x86_64-linux", Duration: time.Minute, Inputs: []int32{0}})
	for range 1000 {
		g.Add(simulate.Node{Name: "tiny", System: "x86_64-linux", Duration: time.Millisecond})
	}
	picture, classes, titles := drawnOf(t, g, []simulate.Machine{
		{Name: "m&1", Slots: 1, Bandwidth: 1e6}, {Name: "m2", Slots: 1, Speed: 0.5, Bandwidth: 1e6, Features: []string{"x"}, Away: []simulate.Interval{{From: time.Second, To: 2 * time.Second}}},
	})
	if strings.Contains(picture, "<script") || strings.Contains(picture, "EXTRA") {
		t.Errorf("not escaped:\n%s", picture)
	}
	all := strings.Join(titles, "\n")
	for _, want := range []string{`<script>alert(1)</script>\x1b\x00\xff on m&1: from `, "short builds on m"} {
		if !strings.Contains(all, want) {
			t.Errorf("no bar says %q, but\n%s", want, all)
		}
	}
	if classes["row"] != 2 || classes["m"] == 0 || len(titles) > 100 {
		t.Errorf("%v and %d titles: want 2 rows, and the tiny ones together", classes, len(titles))
	}
	if !strings.Contains(picture, "prefers-color-scheme: dark") {
		t.Error("not for the dark")
	}
}

// TestPictureOfMuch: neither many builds nor many machines make it big.
func TestPictureOfMuch(t *testing.T) {
	g := &simulate.Graph{}
	for i := range 20_000 {
		g.Add(simulate.Node{Name: fmt.Sprint("n", i), System: "x86_64-linux", Duration: time.Duration(1+i%7) * time.Second, Share: fmt.Sprint(i % 20)})
	}
	var machines []simulate.Machine
	for i := range 300 {
		machines = append(machines, simulate.Machine{Name: fmt.Sprint("m", i), Slots: 10})
	}
	picture, classes, _ := drawnOf(t, g, machines)
	if classes["row"] > maxSVGRows || len(picture) > 10<<20 || !strings.Contains(picture, "more machines are not drawn") {
		t.Errorf("%d rows, %d bytes", classes["row"], len(picture))
	}
	if classes["c3"] == 0 {
		t.Errorf("no colours of shares: %v", classes)
	}
}
