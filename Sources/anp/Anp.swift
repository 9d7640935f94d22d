import ArgumentParser
@main struct Anp: ParsableCommand { }
