from fertools.cli import main

main()
