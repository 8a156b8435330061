package machines

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestRoute changes each field of an entry: what is not an entry's own must make another route.
func TestRoute(t *testing.T) {
	own := []string{
		"Name", "Systems", "ParallelBuilds", "Speed", "Features", "MandatoryFeatures", "OverloadThreshold", "MinFreeDisk", "MinFreeInodes",
		"MinFreeMemory", "Memory", "MemoryLimit", "Tokens", "MaxCPUPressure", "MaxMemoryPressure", "ParallelTransfers", "SubstituteURLs", "BuildCores", "Timeout", "MaxSilentTime",
		"PortGiven", "Tags", "GCInterval", "GCOlderThan", "GCMaxFreed", "SandboxPaths",
	}
	for i := range reflect.TypeFor[Machine]().NumField() {
		field := reflect.TypeFor[Machine]().Field(i)
		var m Machine
		switch v := reflect.ValueOf(&m).Elem().Field(i); v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Int, reflect.Int64:
			v.SetInt(7)
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Float64:
			v.SetFloat(7)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(field.Type, 1, 1))
		case reflect.Pointer:
			v.Set(reflect.ValueOf(&Way{HostKeyAlias: "x"}))
		case reflect.Map:
			v.Set(reflect.MakeMap(field.Type))
		default:
			t.Fatalf("%s is a %s", field.Name, v.Kind())
		}
		if same := m.Route() == new(Machine).Route(); same != slices.Contains(own, field.Name) {
			t.Errorf("with another %s the route is the same: %v", field.Name, same)
		} else if m.Route().String() == new(Machine).Route().String() != same {
			t.Errorf("with another %s the texts are the same: %v", field.Name, !same)
		}
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"builder.example.org", "Builder.Example.ORG", true},
		{"::1", "0:0:0:0:0:0:0:1", true},
		{"fe80::1%eth0", "FE80::1%eth0", true},
		{"10.0.0.1", "10.0.0.1", true},
		{"builder", "builder.example.org", false}, // known only once both are reached
		{"10.0.0.1", "10.0.0.2", false},
	} {
		a, b := Machine{Host: c.a, Port: 22}, Machine{Host: c.b, Port: 22}
		if same := a.Route() == b.Route(); same != c.same {
			t.Errorf("%s and %s: the same is %v", c.a, c.b, same)
		}
	}
}

// TestSameHostOfFiles has files as farms have them.
func TestSameHostOfFiles(t *testing.T) {
	say := func(t *testing.T, all []Machine, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, same := range SameHost(all) {
			for i, m := range same {
				fmt.Fprintf(&b, "%s%s (%s)", []string{"", " = "}[min(i, 1)], m.Name, strings.Join(m.Systems, ","))
			}
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%d machines, %d slots\n", len(all), Slots(all))
		return b.String()
	}
	goldenOf(t, "testdata/guix-hosts.txtar", ".scm", func(t *testing.T, name string, data []byte) string {
		all, _, err := ParseGuix(name, data)
		return say(t, all, err)
	})
	goldenOf(t, "testdata/nix-hosts.txtar", ".machines", func(t *testing.T, name string, data []byte) string {
		all, _, err := ParseNix(name, data)
		return say(t, all, err)
	})
}
