package cli
func doctorCommand() *command { return nil }
