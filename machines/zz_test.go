package machines
import ("testing";"path/filepath")
func TestZZ(t *testing.T){
	files,_ := filepath.Glob("testdata/guix/*.scm")
	for _, f := range files {
		all, w, err := Read(t.Context(), f, Options{})
		t.Logf("%s\n%s---%v\n--- %v\n", f, FormatTOML(all), w, err)
	}
}
