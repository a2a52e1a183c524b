from training.clip import main

main()
