package display_test

import (
	"testing"
	"time"

	"lighter/internal/api"
	"lighter/internal/cli/display"
	"lighter/internal/human"
)

// inLocal sets the time zone for a test that shows times of day.
func inLocal(t *testing.T, zone *time.Location) {
	t.Helper()
	old := time.Local
	time.Local = zone
	t.Cleanup(func() { time.Local = old })
}

func expected(low, middle, high time.Time) *api.Expected {
	return &api.Expected{Low: low, Middle: middle, High: high}
}

func TestExpected(t *testing.T) {
	inLocal(t, time.UTC)
	now := time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC) // a Friday
	at := func(text string) time.Time {
		t.Helper()
		x, err := time.Parse("2 15:04:05", text)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 11, x.Day(), x.Hour(), x.Minute(), x.Second(), 0, time.UTC)
	}
	for _, tt := range []struct{ low, middle, high, text, column string }{
		{"20 13:02:40", "20 13:03:50", "20 13:04:50", "in 3 to 5 minutes", "3-5m"},
		{"20 13:00:20", "20 13:00:30", "20 13:01:00", "in 20 to 60 seconds", "20-60s"},
		{"20 13:00:00", "20 13:00:00", "20 13:00:01", "within 1 second", "<1s"},
		{"20 13:00:10", "20 13:04:00", "20 13:07:30", "within 8 minutes", "<8m"},
		{"20 13:03:50", "20 13:03:55", "20 13:04:00", "in about 4 minutes", "~4m"},
		{"20 14:20:00", "20 14:35:10", "20 15:10:59", "at 14:35 (between 14:20 and 15:10)", "14:20-15:10"},
		{"20 14:21:00", "20 14:32:10", "20 14:39:59", "at 14:32 (between 14:21 and 14:39)", "14:21-14:39"},
		{"20 23:10:00", "20 23:50:00", "21 00:40:00", "at 23:50 (between 23:10 and Sat 00:40)", "23:10-Sat 00:40"},
		{"21 22:00:00", "22 09:10:00", "23 03:00:00", "on Sun at 09:10 (between Sat 22:00 and Mon 03:00)", "Sat 22:00-Mon 03:00"},
		{"21 08:00:00", "21 09:10:00", "21 15:00:00", "on Sat at 09:10 (between Sat 08:00 and Sat 15:00)", "Sat 08:00-15:00"},
		{"27 08:00:00", "28 09:10:00", "30 15:00:00", "on 28 Nov at 09:10 (between 27 Nov 08:00 and 30 Nov 15:00)", "27 Nov 08:00-30 Nov 15:00"},
	} {
		e := expected(at(tt.low), at(tt.middle), at(tt.high))
		if got := display.Expected(e, now); got != tt.text {
			t.Errorf("%s to %s: got %q, want %q", tt.low, tt.high, got, tt.text)
		}
		if got := display.ExpectedColumn(e, now); got != tt.column {
			t.Errorf("%s to %s: got %q, want %q", tt.low, tt.high, got, tt.column)
		}
	}
	e := expected(now, now.AddDate(2, 0, 0), now.AddDate(300, 0, 0))
	if got := display.Expected(e, now); got != "on 2028-11-20 at 13:00 (between 13:00 and 2326-11-20 13:00)" {
		t.Errorf("far away: got %q", got)
	}
	if display.Expected(nil, now) != "" || display.ExpectedColumn(nil, now) != "-" {
		t.Error("something is said of an end that can't be told")
	}
}

func TestOutlook(t *testing.T) {
	inLocal(t, time.UTC)
	now := time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC)
	e := expected(now.Add(5*time.Hour), now.Add(6*time.Hour), now.Add(7*time.Hour))
	unsure := *e
	unsure.Unsure = "2 of 9 never built here before"
	for want, o := range map[string]*api.Outlook{
		"": nil,
		"123 builds to be done at 19:00 (between 18:00 and 20:00)":                                       {ExpectedEnd: e, Builds: 123},
		"9 builds to be done at 19:00 (between 18:00 and 20:00); unsure: 2 of 9 never built here before": {ExpectedEnd: &unsure, Builds: 9},
		"1 build to be done at 19:00 (between 18:00 and 20:00); of 4 more it can't be told":              {ExpectedEnd: e, Builds: 1, Untold: 4, Unknown: "paused"},
		"when builds will be done can't be told: paused":                                                 {Untold: 4, Unknown: "paused"},
		"when 4 builds will be done can't be told":                                                       {Untold: 4},
	} {
		if got := display.Outlook(o, now); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestSummaryWithAnEnd says when all will be done as long as there is room, and then how long that is.
func TestSummaryWithAnEnd(t *testing.T) {
	inLocal(t, time.UTC)
	m := display.NewModel(start)
	m.Want(build("a", "hello-2.12", api.Queued, ""), start)
	m.SetStatus(&api.Status{Queues: []api.SystemQueue{{System: "x86_64-linux", Empty: 36000}}})
	m.SetOutlook(&api.Outlook{Builds: 1, ExpectedEnd: expected(start.Add(150*time.Second), start.Add(4*time.Minute), start.Add(5*time.Minute))})
	for width, want := range map[int]string{
		100: "0 of 1 build done, 1 waiting, 10s, to be done in 2 to 5 minutes", 60: "0 of 1 build done, 1 waiting, 10s, ~3m50s left", 42: "0/1 done, 1 waiting, 10s, ~3m50s left",
	} {
		lines := m.Lines(start.Add(10*time.Second), width, 10, display.Style{})
		if got := lines[len(lines)-1]; got != want || human.Width(got) > width {
			t.Errorf("%d wide: got %q, want %q", width, got, want)
		}
	}
}
