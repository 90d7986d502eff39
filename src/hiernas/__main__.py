from hiernas.cli import main

main()
