from training.tokens import main

main()
