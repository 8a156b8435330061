package estimate

import "time"

// giant is what is assumed of a package that is known to take long, until it was built once.
type giant struct {
	hours  float64 // at speed 1
	memory float64 // GiB at the peak
}

// giants are by names without versions. Nobody measured them for this table: the times are rules of
// thumb for a few cores, right in their order of magnitude at best, and the memory is about what the
// projects' own instructions ask for, or what their largest links are known for. They are there so that the
// longest builds of a graph are not taken for a minute's work when a farm is new, and their spread says
// how little is known (see giantSpread).
var giants = map[string]giant{
	"chromium":                {8, 16},
	"ungoogled-chromium":      {8, 16},
	"qtwebengine":             {6, 12},
	"webkitgtk":               {3, 10},
	"webkitgtk-for-gtk3":      {3, 10},
	"webkitgtk-with-libsoup2": {3, 10},
	"wpewebkit":               {3, 10},
	"libreoffice":             {3, 8},
	"icecat":                  {2.5, 8},
	"icecat-minimal":          {2.5, 8},
	"librewolf":               {2.5, 8},
	"firefox":                 {2.5, 8},
	"torbrowser":              {2.5, 8},
	"mullvadbrowser":          {2.5, 8},
	"icedove":                 {2.5, 8},
	"icedove-minimal":         {2.5, 8},
	"thunderbird":             {2.5, 8},
	"tensorflow":              {3, 10},
	"python-pytorch":          {3, 12},
	"ghc":                     {1.5, 6},
	"rust":                    {1, 8},
	"rust-bootstrap":          {1, 4},
	"llvm":                    {1, 8},
	"clang":                   {1, 8},
	"clang-toolchain":         {1, 8},
	"node":                    {1, 4},
	"openjdk":                 {1, 4},
	"icedtea":                 {1, 4},
	"linux-libre":             {1, 3},
	"gcc":                     {40. / 60, 3},
	"gcc-cross-boot0":         {30. / 60, 3},
	"gcc-boot0":               {30. / 60, 3},
	"boost":                   {30. / 60, 4},
	"glibc":                   {20. / 60, 1},
	"qtbase":                  {30. / 60, 4},
	"qtdeclarative":           {30. / 60, 4},
	"vtk":                     {1, 4},
	"paraview":                {1.5, 6},
	"blender":                 {1, 8},
	"root":                    {1.5, 6},
	"sagemath":                {1.5, 4},
	"mozjs":                   {20. / 60, 4},
	"julia":                   {1, 4},
}

const (
	// giantSpread is the standard deviation of the logarithm of what a giant takes: four in five
	// are within a factor of 2.
	giantSpread = 0.55
	hour        = float64(time.Hour)
	gib         = 1 << 30
)
