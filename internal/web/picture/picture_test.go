package picture

import (
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // not every system has time zones

	"lighter/internal/api"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	midnight = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	theDay   = Frame{Title: "How eightysix was used", Description: "Builds of the last day.", Since: midnight, Until: midnight.Add(24 * time.Hour)}
)

func at(hours float64) time.Time { return midnight.Add(time.Duration(hours * float64(time.Hour))) }

// wellFormed reads a picture as XML, and returns how often it has each element. It fails for what no
// picture may have: styles, scripts, links that leave the site.
func wellFormed(t *testing.T, picture template.HTML) map[string]int {
	t.Helper()
	count := make(map[string]int)
	d := xml.NewDecoder(strings.NewReader(string(picture)))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %.300s", err, picture)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		count[e.Name.Local]++
		for _, a := range e.Attr {
			if name := a.Name.Local; name == "style" || strings.HasPrefix(name, "on") || name == "href" && !strings.HasPrefix(a.Value, "/") {
				t.Errorf("%s has %s=%q", e.Name.Local, name, a.Value)
			}
		}
	}
	for name := range count {
		if !strings.Contains(" svg title desc line text rect a path ul li ", " "+name+" ") {
			t.Errorf("it has a %s", name)
		}
	}
	if len(picture) >= maxBytes {
		t.Errorf("%d bytes", len(picture))
	}
	return count
}

func golden(t *testing.T, name string, picture template.HTML) {
	t.Helper()
	wellFormed(t, picture)
	file := filepath.Join("testdata", name+".svg")
	got := strings.ReplaceAll(string(picture), "><", ">\n<") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s", file, got)
	}
}

func TestPictures(t *testing.T) {
	nan := math.NaN()
	chart := Chart{Frame: theDay, Step: 3 * time.Hour, Whole: true, Lines: []Line{
		{Name: "x86_64-linux", Values: []float64{0, 12, 12, nan, 30, 7, 7, 7}, Area: true},
		{Name: "aarch64-linux", Values: []float64{1, 1, nan, nan, 2}},
		{Name: "failed", Values: []float64{0, 3, 3}, Bad: true},
	}}
	golden(t, "chart", chart.SVG())
	golden(t, "legend", chart.Legend())
	golden(t, "spark", Spark("use of eightysix", []float64{0, 1, nan, 2}, 4))
	golden(t, "slots", Slots(theDay, 3, []Span{
		{From: at(1), To: at(3), State: api.Succeeded, Title: "hello-2.12: succeeded, 2 h", Href: "/build/a"},
		{From: at(2), To: at(4), State: api.Failed, Title: "gcc-14: failed, 2 h", Href: "/build/b"},
		{From: at(3), To: at(5), State: api.Canceled, Title: "llvm-18: canceled", Href: "/build/c"},
		{From: at(23), State: api.Building, Title: "rust-1.80: runs", Href: "/build/d"},
		{From: at(-9), To: at(-2), State: api.Succeeded, Title: "before"},
		{From: at(-1), To: at(0.5), State: api.Succeeded, Title: "began before"},
	}))
	golden(t, "attempts", Attempts(Frame{Title: "Attempts", Since: at(1), Until: at(2)}, []Row{
		{"1 on eightysix", []Span{{at(1), at(1.1), api.Sending, "sending, 6 min", ""}, {at(1.1), at(1.4), api.Building, "building, 18 min", ""}}},
		{"2 on nine", []Span{{From: at(1.5), State: api.Building, Title: "building for 30 min"}}},
	}))
	golden(t, "submission", Submission(theDay,
		[]Span{{at(1), at(5), api.Succeeded, "gcc-14", "/build/a"}, {at(5), at(9), api.Building, "hello-2.12", "/build/b"}},
		[]Span{{at(1), at(2), api.Succeeded, "sed-4.9", "/build/c"}, {at(1.5), at(2), api.Failed, "grep-3.11", "/build/d"}, {at(2), at(3), api.Succeeded, "tar-1.35", ""}},
	))
}

// Pictures of nothing are pictures.
func TestNothing(t *testing.T) {
	for name, picture := range map[string]template.HTML{
		"chart":      (&Chart{Frame: theDay}).SVG(),
		"no time":    (&Chart{Lines: []Line{{Values: []float64{1}}}}).SVG(),
		"gaps":       (&Chart{Frame: theDay, Step: time.Hour, Lines: []Line{{Values: []float64{math.NaN(), math.Inf(1)}, Area: true}}}).SVG(),
		"slots":      Slots(theDay, 0, nil),
		"attempts":   Attempts(Frame{}, nil),
		"submission": Submission(theDay, nil, nil),
		"spark":      Spark("", nil, 0),
	} {
		if n := wellFormed(t, picture); n["svg"] == 0 || n["title"] == 0 {
			t.Errorf("%s: %s", name, picture)
		}
	}
}

// Names of builds and machines are whatever somebody made them.
func TestHostileNames(t *testing.T) {
	for _, evil := range []string{
		`</title><script>alert(1)</script>`, `"><rect onclick="x" style="x">`, "a\x00\x1b[31m\u202eb", "'\"&<>", "\xff\xfe",
		strings.Repeat(`<`, 10_000), "]]>", "<!--",
	} {
		f := Frame{Title: evil, Description: evil, Since: midnight, Until: at(24)}
		for _, link := range []string{"", evil, "/build/" + evil, "//evil.example", "javascript:alert(1)", "/\\evil.example"} {
			span := Span{at(1), at(9), api.State(evil), evil, link}
			wellFormed(t, Slots(f, 1, []Span{span}))
			wellFormed(t, Attempts(f, []Row{{evil, []Span{span}}}))
			wellFormed(t, Submission(f, []Span{span}, []Span{span}))
		}
		c := &Chart{Frame: f, Step: time.Hour, Lines: []Line{{Name: evil, Values: []float64{1}}, {Name: evil}}}
		wellFormed(t, c.SVG())
		wellFormed(t, c.Legend())
		wellFormed(t, Spark(evil, []float64{1}, 1))
	}
}

// However much there is to be seen, a picture is small; what failed is seen all the same.
func TestBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{100, 1000, 20_000} {
		var spans []Span
		for i := range n {
			from := at(24 * random.Float64())
			spans = append(spans, Span{from, from.Add(time.Duration(random.ExpFloat64() * float64(time.Minute))), api.Succeeded, strings.Repeat(`<">`, 99), fmt.Sprint("/build/", i, strings.Repeat("&", 70))})
		}
		spans[n/2].State = api.Failed
		for slots := 1; slots <= 1000; slots *= 10 {
			picture := Slots(theDay, slots, spans)
			wellFormed(t, picture)
			if !strings.Contains(string(picture), "✗") {
				t.Errorf("%d builds, %d slots: the failure is not seen", n, slots)
			}
		}
		wellFormed(t, Submission(theDay, spans[:n/2], spans))
		var rows []Row
		for _, s := range spans {
			rows = append(rows, Row{s.Title, []Span{s}})
		}
		wellFormed(t, Attempts(theDay, rows))
		values := make([]float64, n)
		for i := range values {
			values[i] = random.Float64()
		}
		c := &Chart{Frame: theDay, Step: 24 * time.Hour / time.Duration(n)}
		for range 10 {
			c.Lines = append(c.Lines, Line{Values: values, Area: true})
		}
		wellFormed(t, c.SVG())
		wellFormed(t, Spark("x", values, 1))
	}
}

// Of what is too near, neighbours are joined, and all of them are counted.
func TestJoin(t *testing.T) {
	var spans []Span
	for i := range 1000 {
		spans = append(spans, Span{From: at(float64(i) / 100), To: at(float64(i)/100 + 0.005), State: api.Succeeded, Title: "one"})
	}
	bars := [][]bar{theDay.bars(spans)}
	join(bars, 100)
	count := 0
	for _, b := range bars[0] {
		count += b.count
	}
	if len(bars[0]) > 100 || count != 1000 || !strings.Contains(bars[0][0].title(), "too near") {
		t.Errorf("%d bars of %d builds: %+v", len(bars[0]), count, bars[0][0])
	}
	few := [][]bar{theDay.bars(spans[:1])}
	if join(few, 0); len(few[0]) != 1 || few[0][0].title() != "one" {
		t.Errorf("got %+v", few)
	}
}

func TestTimeTicks(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		since time.Time
		span  time.Duration
		want  string
	}{
		{midnight, 24 * time.Hour, "00:00 06:00 12:00 18:00 00:00"},
		{at(13.3), 24 * time.Hour, "18:00 00:00 06:00 12:00"},
		{at(13.3), time.Minute, "13:18:00 13:18:15 13:18:30 13:18:45 13:19:00"},
		{at(13.3), 31 * 24 * time.Hour, "Dec 7 Dec 14 Dec 21 Dec 28"},
		{time.Date(2026, 10, 23, 0, 0, 0, 0, paris), 4 * 24 * time.Hour, "Oct 23 Oct 24 Oct 25 Oct 26"},
		{midnight, 0, ""},
		{midnight, -time.Hour, ""},
	} {
		var got []string
		for _, tick := range timeTicks(tt.since, tt.since.Add(tt.span)) {
			got = append(got, tick.label)
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%s for %s: %q, want %q", tt.since, tt.span, text, tt.want)
		}
	}
	for span := time.Second; span > 0 && span < 290*365*day; span = span * 3 / 2 {
		if n := len(timeTicks(at(7), at(7).Add(span))); n > maxTicks+1 {
			t.Errorf("%d ticks for %s", n, span)
		}
	}
}

func TestValueTicks(t *testing.T) {
	for _, tt := range []struct {
		most  float64
		whole bool
		want  string
	}{
		{0, true, "[1]"},
		{1, true, "[1]"},
		{3, true, "[1 2 3]"},
		{30, true, "[10 20 30]"},
		{7, false, "[2 4 6 8]"},
		{0.35, false, "[0.1 0.2 0.30000000000000004 0.4]"},
		{12_345, true, "[5000 10000 15000]"},
		{math.NaN(), false, "[0.5 1]"},
		{math.Inf(1), false, "[0.5 1]"},
	} {
		if got := fmt.Sprint(valueTicks(tt.most, tt.whole)); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.most, got, tt.want)
		}
	}
	for v, want := range map[float64]string{0.30000000000000004: "0.3", 5000: "5000", 15_000: "15k", 2e6: "2000k", 12e6: "12M"} {
		if got := short(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
